-- What tubes are made of: their spaces, the changes of a task's state, and counters that agree with them.
-- Used by the module `tubes` alone.
--
-- All spaces are local to the server: nothing of a tube is replicated, and a read-only replica has tubes too.
-- Every change runs in `atomic`: within the caller's transaction if there is one, else in one of its own. Lua
-- tables that mirror the spaces are put right again when the transaction rolls back.
local log = require('log')

local M = {version = 1}

-- Fields of a task.
M.ID, M.TUBE, M.STATE, M.PRI, M.EVENT, M.TTR, M.ATTEMPTS, M.EXPIRES = 1, 2, 3, 4, 5, 6, 7, 8
M.GROUP, M.COST, M.UNIQUE, M.CREATED, M.NOTE, M.REASON, M.DATA = 9, 10, 11, 12, 13, 14, 15
local ID, TUBE, STATE, EVENT, EXPIRES, GROUP, COST, DATA = 1, 2, 3, 5, 8, 9, 10, 15
local NOTE, REASON = 13, 14
local NEVER = math.huge
-- Tasks that one transaction changes when nobody asked for a number: then others have their turn.
M.BATCH = 1000
-- What puts leave free of the server's memory of so many bytes: to take and to release a task needs some, too.
-- Memory is handed out in pieces of 16 MiB, of which up to two were seen to be free and not to be had.
local function reserve(size)
    return math.max(size * 0.05, math.min(40 * 2 ^ 20, size * 0.6))
end

M.migrations = {
    function()
        local function space(name, parts, more)
            local made = box.schema.space.create(name, {is_local = true, if_not_exists = true})
            made:create_index('pk', {parts = parts, if_not_exists = true})
            for index, of in pairs(more or {}) do
                made:create_index(index, {parts = of, unique = false, if_not_exists = true})
            end
        end
        space('tubes_meta', {{1, 'string'}})                      -- key, value
        space('tubes_names', {{1, 'unsigned'}})                   -- number, name, default ttr
        space('tubes_groups', {{1, 'string'}})                    -- name, state, rate, burst
        space('tubes_counts', {{1, 'string'}, {2, 'unsigned'}, {3, 'string'}})  -- group, tube, reason, number
        -- tube, unique name, group, id
        space('tubes_unique', {{1, 'unsigned'}, {2, 'string'}}, {group = {{3, 'string'}}})
        space('tubes_tasks', {{ID, 'unsigned'}}, {
            -- the head of a tube's group, whatever its state; the primary key orders what is equal
            lane = {{TUBE, 'unsigned'}, {STATE, 'string'}, {GROUP, 'string'}, {4, 'integer'}, {ID, 'unsigned'}},
            event = {{EVENT, 'number'}},
        })
    end,
}

-- name -> {number, name, ttr, calls}; number -> the same
M.by_name, M.by_number = {}, {}
-- tube number -> group -> {r, d, t, b = tasks, cost = of all of them}; no entry where there is no task
M.lanes = {}
-- group -> {state, rate, burst, tat}: tat is GCRA's theoretical arrival time (monotonic seconds)
M.groups = {}
-- {fn, data = whether it wants it, part = fn or nil}, in order of their names
M.hooks = {}
-- {closed = fn, settled = fn}, or less
M.stand = {}

local tasks, counts
local boot, last = 0, 0

function M.fail(code, text, ...)
    box.error({type = code, reason = code .. ': ' .. text:format(...)})
end

-- ── ids ──

local function new_boot()
    box.space.tubes_meta:upsert({'boot', 1}, {{'+', 2, 1}})
    boot, last = tonumber(box.space.tubes_meta:get('boot')[2]), 0
end

-- boot * 2^32 + n: no id is ever given twice, so a late ack never meets another task.
function M.new_id()
    last = last + 1
    if last >= 2 ^ 32 then
        M.fail('ids-exhausted', 'restart this server: it gave out 2^32 ids')
    end
    return boot * 2 ^ 32 + last
end

-- Refuse to put when memory runs short, while what is there can still be worked off.
function M.check_memory()
    local slab = box.slab.info()
    local free = slab.quota_size - slab.quota_used + slab.arena_size - slab.arena_used
    if free < reserve(tonumber(slab.quota_size)) then
        M.fail('full', '%d of %d MiB are used: tasks have to be done before more are put (memtx_memory)',
            tonumber(slab.quota_size - free) / 2 ^ 20, tonumber(slab.quota_size) / 2 ^ 20)
    end
end

-- A tuple that Lua has looked at keeps its memory until Lua's garbage is collected, and the collector sees some
-- bytes where there are 100 KiB: so it is told, before a sixteenth of the memory is held by nobody.
local unseen, most_unseen = 0, 8 * 2 ^ 20

local function looked_at(task)
    unseen = unseen + task:bsize()
end

local function collect()
    if unseen > most_unseen then
        unseen = 0
        collectgarbage()
    end
end

-- ── counters ──

local function lane_of(tube, group)
    local of = M.lanes[tube]
    local lane = of[group]
    if lane == nil then
        lane = {r = 0, d = 0, t = 0, b = 0, cost = 0}
        of[group] = lane
    end
    return lane
end

local function drop_if_empty(tube, group, lane)
    if lane.r == 0 and lane.d == 0 and lane.t == 0 and lane.b == 0 then
        M.lanes[tube][group] = nil
    end
end

-- Count n tasks more (or fewer) in a state, and remember it for a rollback.
local function count(delta, tube, group, state, n, cost)
    local lane = lane_of(tube, group)
    lane[state] = lane[state] + n
    lane.cost = lane.cost + cost
    local of = delta.lanes[tube]
    if of == nil then
        of = {}
        delta.lanes[tube] = of
    end
    local change = of[group]
    if change == nil then
        change = {r = 0, d = 0, t = 0, b = 0, cost = 0}
        of[group] = change
    end
    change[state] = change[state] + n
    change.cost = change.cost + cost
end

-- Add to a group's counter of a reason when the transaction ends well.
function M.tally(delta, group, tube, reason, n)
    local of = delta.tally[group]
    if of == nil then
        of = {}
        delta.tally[group] = of
    end
    of[tube] = of[tube] or {}
    of[tube][reason] = (of[tube][reason] or 0) + n
end

local function write_tally(delta)
    for group, of in pairs(delta.tally) do
        for tube, reasons in pairs(of) do
            for reason, n in pairs(reasons) do
                counts:upsert({group, tube, reason, n}, {{'+', 4, n}})
            end
        end
    end
end

-- ── transactions ──

local function revert(delta)
    if delta.reverted then
        return
    end
    delta.reverted = true
    for tube, of in pairs(delta.lanes) do
        for group, change in pairs(of) do
            local lane = lane_of(tube, group)
            for key, n in pairs(change) do
                lane[key] = lane[key] - n
            end
            drop_if_empty(tube, group, lane)
        end
    end
    for at = #delta.undo, 1, -1 do
        delta.undo[at]()
    end
end

local function forget_empty_lanes(delta)
    for tube, of in pairs(delta.lanes) do
        for group in pairs(of) do
            local lane = M.lanes[tube][group]
            if lane ~= nil then
                drop_if_empty(tube, group, lane)
            end
        end
    end
end

-- Changes within transactions of other code that are not written yet, oldest first. Such transactions cannot
-- yield before their end, and the log is written in order: commits end the oldest, rollbacks the newest. One
-- function for all, as Tarantool 2.6 never lets go of a function that a transaction was given as a trigger.
local guests, oldest, newest = {}, 1, 0

local function guest_written()
    guests[oldest] = nil
    oldest = oldest + 1
end

local function guest_rolled_back()
    local delta = guests[newest]
    guests[newest] = nil
    newest = newest - 1
    revert(delta)
end

local function be_guest(delta, after)
    newest = newest + 1
    guests[newest] = delta
    box.on_rollback(guest_rolled_back)
    box.on_commit(guest_written)
    after(delta) -- whom it wakes runs when this fiber yields: after the commit
end

-- Run fn(delta, ...) in a transaction; it must not yield. `after(delta)` is called when others may see it.
-- delta.wakes: tubes in which tasks became ready; delta.alarm: the earliest event that was set;
-- delta.undo: functions that put Lua tables right again.
function M.atomic(after, fn, ...)
    local delta = {lanes = {}, tally = {}, undo = {}, wakes = {}, alarm = NEVER}
    local savepoint
    if box.is_in_txn() then
        savepoint = box.savepoint()
    else
        box.begin()
    end
    local ok, result = pcall(fn, delta, ...)
    if ok then
        ok, result = pcall(function(given)
            write_tally(delta)
            return given
        end, result)
    end
    if not ok then
        if savepoint then
            box.rollback_to_savepoint(savepoint)
        else
            box.rollback()
        end
        revert(delta)
        error(result, 0)
    end
    forget_empty_lanes(delta)
    if savepoint then
        be_guest(delta, after)
        return result
    end
    local written, problem = pcall(box.commit)
    if not written then
        revert(delta)
        error(problem, 0)
    end
    after(delta)
    collect()
    return result
end

-- ── one task ──

local function set_event(delta, event)
    if event < delta.alarm then
        delta.alarm = event
    end
end

-- Insert a task of these fields; its state follows from due and now.
function M.insert(delta, row, due, now)
    local expires = row[EXPIRES]
    if due > now then
        row[STATE], row[EVENT] = 'd', math.min(due, expires)
    else
        row[STATE], row[EVENT] = 'r', expires
        delta.wakes[row[TUBE]] = true
    end
    set_event(delta, row[EVENT])
    tasks:insert(row)
    count(delta, row[TUBE], row[GROUP], row[STATE], 1, row[COST])
end

local function move(delta, task, state, event, more)
    local changes = more or {}
    changes[#changes + 1] = {'=', STATE, state}
    changes[#changes + 1] = {'=', EVENT, event}
    set_event(delta, event)
    count(delta, task[TUBE], task[GROUP], task[STATE], -1, 0)
    count(delta, task[TUBE], task[GROUP], state, 1, 0)
    looked_at(task)
    looked_at(task)
    return tasks:update(task[ID], changes)
end
M.move = move

function M.call_hooks(tube, id, task, how)
    for _, hook in ipairs(M.hooks) do
        local data = nil
        if hook.data then
            data = task[DATA]
        end
        hook.fn(M.by_number[tube].name, tonumber(id), data, task[GROUP], task[NOTE], how)
    end
end

function M.call_part_hooks(tube, id, data)
    for _, hook in ipairs(M.hooks) do
        if hook.part ~= nil then
            hook.part(M.by_number[tube].name, id, data)
        end
    end
end

-- Delete a task for good. how: acked, dropped, expired, deleted.
function M.finish(delta, task, how)
    local state, tube = task[STATE], tonumber(task[TUBE])
    looked_at(task)
    tasks:delete(task[ID])
    count(delta, tube, task[GROUP], state, -1, -tonumber(task[COST]))
    if how ~= 'acked' then
        M.tally(delta, task[GROUP], tube, how, tonumber(task[COST]))
    end
    if #M.hooks > 0 and state ~= 'b' then
        M.call_hooks(tube, task[ID], task, how)
    end
end

function M.bury(delta, task, reason)
    move(delta, task, 'b', NEVER, {{'=', REASON, reason}})
    if #M.hooks > 0 then
        M.call_hooks(tonumber(task[TUBE]), task[ID], task, 'buried')
    end
end

-- Make a task ready, or delayed until `due`; one that is expired or whose group was dropped ends.
function M.give_back(delta, task, due, now)
    local group = M.groups[task[GROUP]]
    if group ~= nil and group.state == 'dropped' then
        M.finish(delta, task, 'dropped')
    elseif task[EXPIRES] <= now then
        M.finish(delta, task, 'expired')
    elseif due > now then
        move(delta, task, 'd', math.min(due, task[EXPIRES]))
    else
        move(delta, task, 'r', task[EXPIRES])
        delta.wakes[task[TUBE]] = true
    end
end

-- Put new data, and what it costs, into a task.
function M.shorten(delta, task, data, cost)
    count(delta, task[TUBE], task[GROUP], task[STATE], 0, cost - task[COST])
    tasks:update(task[ID], {{'=', DATA, data}, {'=', COST, cost}})
end

-- ── start ──

function M.remove_tube(number)
    M.by_name[M.by_number[number].name], M.by_number[number], M.lanes[number] = nil, nil, nil
end

function M.add_tube(number, name, ttr)
    local tube = {number = number, name = name, ttr = ttr, calls = {}}
    M.by_name[name], M.by_number[number] = tube, tube
    M.lanes[number] = M.lanes[number] or {}
    return tube
end

-- Read everything anew; hooks stay those of the module that was replaced.
function M.start(old)
    M.hooks, M.stand = old and old.hooks or M.hooks, old and old.stand or M.stand
    if box.cfg.memtx_use_mvcc_engine then
        M.fail('mvcc', 'tubes need memtx_use_mvcc_engine = false: with it their transactions might yield')
    end
    tasks, counts = box.space.tubes_tasks, box.space.tubes_counts
    most_unseen = math.min(math.max(box.cfg.memtx_memory / 16, 4 * 2 ^ 20), 128 * 2 ^ 20)
    new_boot()
    for _, row in box.space.tubes_names:pairs() do
        M.add_tube(tonumber(row[1]), row[2], row[3])
    end
    for _, row in box.space.tubes_groups:pairs() do
        M.groups[row[1]] = {state = row[2], rate = row[3], burst = row[4], tat = -NEVER}
    end
    local delta, n = {lanes = {}}, 0
    for _, task in tasks:pairs() do
        count(delta, tonumber(task[TUBE]), task[GROUP], task[STATE], 1, tonumber(task[COST]))
        n = n + 1
    end
    log.info('tubes: %d tasks', n)
end

return M
