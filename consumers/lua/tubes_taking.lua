-- Taking: whose turn it is, by groups and their rates, and waiting for it. Used by `tubes` alone.
local fiber = require('fiber')

local M = {version = 1, needs = {'tubes_store', 'tubes_calls', 'tubes_holders'}}

local calls, holders, store
local ID, STATE, TTR, ATTEMPTS, EXPIRES, GROUP, COST, DATA = 1, 3, 6, 7, 8, 9, 10, 15
-- The longest that one take waits (seconds), and the most tasks that it gives.
local LONGEST, MOST = 3600, 10000
-- Seconds until a group that is closed is looked at again.
local CLOSED = 0.05
local turn = 0

-- Whether tasks of a group may be taken; if its rate alone says no, from when on (monotonic seconds).
local function gate(group, mono)
    if store.stand.closed ~= nil and store.stand.closed(group) then
        return false, mono + CLOSED
    end
    local known = store.groups[group]
    if known == nil then
        return true
    elseif known.state ~= 'running' then
        return false
    elseif known.rate > 0 and mono < known.tat - known.burst / known.rate then
        return false, known.tat - known.burst / known.rate
    end
    return true
end

local function charge(delta, group, cost, mono)
    local known = store.groups[group]
    if known == nil or known.rate <= 0 then
        return
    end
    local before = known.tat
    known.tat = math.max(before, mono) + cost / known.rate
    table.insert(delta.undo, function() known.tat = before end)
end

-- The first task of a tube whose group is open, by (pri, id). heads: group -> its first task, kept between
-- calls within one take.
local function head_of(tube, heads, mono)
    local lane_index = box.space.tubes_tasks.index.lane
    local best, best_pri, best_id
    for group, lane in pairs(store.lanes[tube.number]) do
        if lane.r > 0 then
            local open, from = gate(group, mono)
            if open then
                local task = heads[group]
                if task == nil then
                    task = lane_index:min({tube.number, 'r', group})
                    heads[group] = task
                end
                if task ~= nil then -- else a rollback is about to be counted
                    local pri, id = task[4], tonumber(task[ID])
                    if best == nil or pri < best_pri or (pri == best_pri and id < best_id) then
                        best, best_pri, best_id = task, pri, id
                    end
                end
            elseif from ~= nil and from < holders.slot then
                holders.slot = from
                holders.ring()
            end
        end
    end
    return best
end

local function pick_one(delta, tube, heads, sid, now, mono)
    while true do
        local task = head_of(tube, heads, mono)
        if task == nil then
            return nil
        end
        heads[task[GROUP]] = nil
        if task[EXPIRES] <= now then
            store.finish(delta, task, 'expired')
        else
            local id = tonumber(task[ID])
            store.move(delta, task, 't', now + task[TTR], {{'+', ATTEMPTS, 1}})
            charge(delta, task[GROUP], task[COST], mono)
            holders.own(id, sid)
            table.insert(delta.undo, function() holders.disown(id) end)
            -- {tube, id, attempts, data}, the data as it lies there: nothing is decoded
            return task:transform(1, DATA - 1, tube.name, id, task[ATTEMPTS])
        end
    end
end

local function pick(delta, tubes, limit, sid)
    local now, mono, rows, heads = calls.clock(), calls.monotonic(), {}, {}
    local left = {}
    turn = turn + 1
    for at = 1, #tubes do
        left[at] = tubes[(turn + at) % #tubes + 1]
    end
    while #left > 0 and #rows < limit do
        for at = #left, 1, -1 do
            local tube = left[at]
            heads[tube] = heads[tube] or {}
            local row = #rows < limit and pick_one(delta, tube, heads[tube], sid, now, mono)
            if row then
                rows[#rows + 1] = row
            elseif #rows < limit then
                table.remove(left, at)
            end
        end
    end
    return rows
end

local function anything(tubes)
    for _, tube in ipairs(tubes) do
        for _, lane in pairs(store.lanes[tube.number]) do
            if lane.r > 0 then
                return true
            end
        end
    end
    return false
end

local function pass_on(tubes)
    for _, tube in ipairs(tubes) do
        if anything({tube}) then
            holders.wake(tube.number)
        end
    end
end

function M.give_all_back(delta, ids, now)
    for _, id in ipairs(ids) do
        local task = box.space.tubes_tasks:get(id)
        holders.let_go(delta, id)
        if task ~= nil and task[STATE] == 't' then
            store.give_back(delta, task, now, now)
        end
    end
end

-- Tasks of a session that is gone.
function M.abandon(sid)
    local session = holders.sessions[sid]
    while session ~= nil and session.n > 0 do
        local ids = {}
        for id in pairs(session.tasks) do
            ids[#ids + 1] = id
            if #ids == store.BATCH then
                break
            end
        end
        store.atomic(holders.after, M.give_all_back, ids, calls.clock())
    end
    holders.tidy(sid)
end

local function wait_for_tasks(waiter, session, deadline, limit, sid)
    while true do
        if calls.stopped or session.dead then
            return {}
        end
        if anything(waiter.tubes) then
            local rows = store.atomic(holders.after, pick, waiter.tubes, limit, sid)
            if #rows > 0 then
                return rows
            end
        end
        local left = deadline - fiber.clock()
        if left <= 0 or calls.stopped or session.dead then
            return {}
        end
        waiter.woken = false
        holders.enlist(waiter)
        waiter.cond:wait(left)
        holders.delist(waiter)
    end
end

-- Take up to `limit` tasks out of the tubes in turn; waits up to `timeout` seconds for the first. Rows
-- {tube, id, attempts, data}; attempts: how often it was taken before.
function M.take(names, timeout, limit)
    local sid = box.session.id() -- before any yield: it is this request's only now
    if box.is_in_txn() then
        calls.fail('in-transaction', 'take waits: it cannot be part of a transaction')
    end
    local tubes = {}
    for at, name in ipairs(type(names) == 'table' and names or {names}) do
        tubes[at] = calls.called(name, 'take')
    end
    if #tubes == 0 then
        calls.fail('no-tube', 'take needs the name of a tube')
    end
    limit = math.min(calls.number({limit = limit}, 'limit', 1, 1), MOST)
    local deadline = fiber.clock() + math.min(calls.number({timeout = timeout}, 'timeout', 0, 0), LONGEST)
    local session = holders.session_of(sid)
    local waiter = {tubes = tubes, nodes = {}, cond = fiber.cond()}
    session.waits = session.waits + 1
    session.waiters = session.waiters or {}
    session.waiters[waiter] = true
    local ok, rows = pcall(wait_for_tasks, waiter, session, deadline, limit, sid)
    holders.delist(waiter)
    session.waiters[waiter] = nil
    session.waits = session.waits - 1
    if session.dead then -- it went while its tasks were written as taken
        M.abandon(sid)
        rows = {}
    else
        holders.tidy(sid)
    end
    if waiter.woken or (ok and #rows > 0) then
        pass_on(tubes)
    end
    if not ok then
        error(rows, 0)
    end
    return rows
end

function M.start()
    store, calls, holders = rawget(_G, 'tubes_store'), rawget(_G, 'tubes_calls'), rawget(_G, 'tubes_holders')
end

return M
