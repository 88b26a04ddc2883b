-- Settling: what becomes of tasks that are taken, and of those that are put aside. Used by `tubes` alone.
local log = require('log')

local M = {version = 1, needs = {'tubes_store', 'tubes_calls', 'tubes_holders'}}

local calls, holders, store
local ID, TUBE, STATE, TTR, GROUP, COST = 1, 2, 3, 6, 9, 10
-- The most tasks of one kick.
local MOST = 10000

-- A settlement is written, and about to be answered; within a transaction of other code nothing may wait.
local function written()
    if store.stand.settled == nil or box.is_in_txn() then
        return
    end
    local ok, problem = pcall(store.stand.settled)
    if not ok then
        log.error('tubes: %s', tostring(problem))
    end
end

local function ack_all(delta, tube, list, sid)
    local lost = {}
    for _, entry in ipairs(list) do
        local given, report = entry, nil
        if type(entry) == 'table' then
            given, report = entry[1], entry[2]
        end
        local id = tonumber(given)
        local task = holders.mine(tube, id, sid)
        if task == nil then
            lost[#lost + 1] = given
        else
            for reason, n in pairs(calls.check_report(report)) do
                store.tally(delta, task[GROUP], tube.number, reason, tonumber(n))
            end
            holders.let_go(delta, id)
            store.finish(delta, task, 'acked')
        end
    end
    return lost
end

-- Tasks {{id, report}, ...} are done. The ids that this session has not taken (any more): they stay.
function M.ack(name, list)
    local sid = box.session.id()
    local lost = store.atomic(holders.after, ack_all, calls.called(name, 'ack'), list, sid)
    written()
    return lost
end

local function shorten(delta, tube, id, data, report, cost, sid)
    local task = holders.must_be_mine(tube, id, sid)
    local done = 0
    for reason, n in pairs(calls.check_report(report)) do
        store.tally(delta, task[GROUP], tube.number, reason, tonumber(n))
        done = done + tonumber(n)
    end
    store.shorten(delta, task, data, calls.number({cost = cost}, 'cost', math.max(task[COST] - done, 0), 0))
    store.call_part_hooks(tube.number, id, data)
end

-- A part of a task is done: `data` is what remains, it stays taken. cost: what the rest costs; if it is not
-- given, the report's numbers are taken off.
function M.ack_part(name, id, data, report, cost)
    local sid = box.session.id()
    if data == nil then
        calls.fail('bad-data', 'a task needs data')
    end
    store.atomic(holders.after, shorten, calls.called(name, 'ack_part'), tonumber(id), data, report, cost, sid)
    written()
end

local function release_all(delta, tube, ids, due, now, sid)
    local lost = {}
    for _, given in ipairs(ids) do
        local id = tonumber(given)
        local task = holders.mine(tube, id, sid)
        if task == nil then
            lost[#lost + 1] = given
        else
            holders.let_go(delta, id)
            store.give_back(delta, task, due, now)
        end
    end
    return lost
end

-- Give tasks back, to be ready after `delay` seconds. The ids that this session has not taken.
function M.release(name, ids, delay)
    local sid, now = box.session.id(), calls.clock()
    local due = now + calls.number({delay = delay}, 'delay', 0, 0)
    return store.atomic(holders.after, release_all, calls.called(name, 'release'), ids, due, now, sid)
end

local function touch_all(delta, tube, ids, ttr, now, sid)
    local lost = {}
    for _, given in ipairs(ids) do
        local task = holders.mine(tube, tonumber(given), sid)
        if task == nil then
            lost[#lost + 1] = given
        else
            store.move(delta, task, 't', now + (ttr or task[TTR]))
        end
    end
    return lost
end

-- Tasks have `ttr` seconds from now (their own ttr if it is not given). The ids that this session has not taken.
function M.touch(name, ids, ttr)
    local sid = box.session.id()
    ttr = calls.number({ttr = ttr}, 'ttr', nil, 0)
    return store.atomic(holders.after, touch_all, calls.called(name, 'touch'), ids, ttr, calls.clock(), sid)
end

local function bury_one(delta, tube, id, reason, report, sid)
    local task = box.space.tubes_tasks:get(id)
    if task == nil or task[TUBE] ~= tube.number or task[STATE] == 't' or task[STATE] == 'b' then
        task = holders.must_be_mine(tube, id, sid)
    end
    if report == nil then
        report = {[reason] = tonumber(task[COST])}
    end
    for word, n in pairs(calls.check_report(report)) do
        store.tally(delta, task[GROUP], tube.number, word, tonumber(n))
    end
    holders.let_go(delta, id)
    store.bury(delta, task, reason)
end

-- Put a task aside until it is kicked or deleted. Without a report its cost is counted under the reason.
function M.bury(name, id, reason, report)
    local sid = box.session.id()
    reason = calls.text({reason = reason or 'buried'}, 'reason')
    store.atomic(holders.after, bury_one, calls.called(name, 'bury'), tonumber(id), reason, report, sid)
    written()
end

local function delete_one(delta, tube, id)
    local task = id and box.space.tubes_tasks:get(id)
    if task == nil or task[TUBE] ~= tube.number then
        return false
    end
    holders.let_go(delta, id)
    store.finish(delta, task, 'deleted')
    return true
end

-- Delete a task, whoever has it; whether it was there.
function M.delete(name, id)
    return store.atomic(holders.after, delete_one, calls.called(name, 'delete'), tonumber(id))
end

local function kick_some(delta, tube, n, now)
    local found = {}
    for group, lane in pairs(store.lanes[tube.number]) do
        if lane.b > 0 then
            local keys = box.space.tubes_tasks.index.lane:select({tube.number, 'b', group}, {limit = n - #found})
            for _, task in ipairs(keys) do
                found[#found + 1] = task
            end
        end
    end
    for _, task in ipairs(found) do
        store.give_back(delta, task, now, now)
    end
    return #found
end

-- Make up to n buried tasks ready again; how many.
function M.kick(name, n)
    local tube = calls.called(name, 'kick')
    n = math.min(calls.number({n = n}, 'n', 1, 1), MOST)
    return store.atomic(holders.after, kick_some, tube, n, calls.clock())
end

function M.start()
    store, calls, holders = rawget(_G, 'tubes_store'), rawget(_G, 'tubes_calls'), rawget(_G, 'tubes_holders')
end

return M
