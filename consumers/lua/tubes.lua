-- Tubes: named queues of tasks, local to this Tarantool server. Global table `tubes`; docs/tubes.md tells what
-- the operations mean.
--
-- A task is ready, delayed, taken or buried. What is taken belongs to the session that took it, until it is
-- settled, its time to run is over, or the session ends: then the task is ready again, at once.
local clock = require('clock')
local fiber = require('fiber')
local log = require('log')

local M = {version = 1, needs = {'tubes_store'}, migrations = {}}

M.functions = {
    consumer = {'take', 'ack', 'ack_part', 'release', 'touch', 'bury', 'stats', 'counts', 'pending'},
    producer = {'create', 'put', 'put_many', 'group', 'counts', 'pending', 'forget', 'stats'},
    operator = {'stats', 'counts', 'pending', 'peek', 'kick', 'delete', 'group'},
}

-- Epoch seconds (delays, ttl, ttr) and seconds that never step (rates); a test may put others here.
M.clock = clock.time
M.monotonic = clock.monotonic

local store
local NEVER = math.huge
local ID, TUBE, STATE, EVENT, TTR, ATTEMPTS, EXPIRES = 1, 2, 3, 5, 6, 7, 8
local GROUP, COST, REASON, NOTE, DATA = 9, 10, 14, 13, 15
local STATES = {r = 'ready', d = 'delayed', t = 'taken', b = 'buried'}
local DEFAULT_TTR = 60
-- The longest that one take waits (seconds), and the most tasks that it gives.
local LONGEST, MOST = 3600, 10000

-- session id -> {tasks = {id -> true}, n = how many, waits = its takes under way, dead}
local sessions = {}
-- id of a taken task -> session id
local owners = {}
-- tube number -> {first, last} of a list of waiting takes
local waiting = {}
local stopped = false
local turn = 0
-- when the timer looks next: epoch seconds; and the first slot of a group with a rate, monotonic seconds
local alarm, slot = 0, NEVER
local bell

-- ── what callers give ──

local function fail(...)
    return store.fail(...)
end

local function tube_of(name)
    if stopped then
        fail('reloading', 'the module is being replaced, call again')
    end
    local tube = store.by_name[name]
    if tube == nil then
        fail('no-tube', 'there is no tube %s', tostring(name))
    end
    return tube
end

local function called(name, what)
    local tube = tube_of(name)
    tube.calls[what] = (tube.calls[what] or 0) + 1
    return tube
end

local function number(opts, key, default, lowest)
    local value = opts[key]
    if value == nil then
        return default
    end
    if type(value) == 'cdata' then
        value = tonumber(value)
    end
    if type(value) ~= 'number' or not (value >= lowest and value < 1e15) then
        fail('bad-option', '%s has to be a number from %g on, not %s', key, lowest, tostring(opts[key]))
    end
    return value
end

local function text(opts, key)
    local value = opts[key]
    if value == nil then
        return ''
    end
    if type(value) ~= 'string' or value == '' then
        fail('bad-option', '%s has to be a text that is not empty', key)
    end
    return value
end

local OPTIONS = {pri = true, ttl = true, ttr = true, delay = true, due = true, group = true, cost = true,
    unique = true, note = true}
local NONE = {}

local function check_options(opts, known)
    if opts == nil then
        return NONE
    elseif type(opts) ~= 'table' then
        fail('bad-option', 'options have to be a map')
    end
    for key in pairs(opts) do
        if not known[key] then
            fail('bad-option', 'there is no option %s', tostring(key))
        end
    end
    return opts
end

local function check_report(report)
    if report == nil then
        return NONE
    elseif type(report) ~= 'table' then
        fail('bad-report', 'a report has to be a map of reasons to numbers')
    end
    for reason, n in pairs(report) do
        if type(reason) ~= 'string' or type(tonumber(n)) ~= 'number' then
            fail('bad-report', 'a report has to be a map of reasons to numbers')
        end
    end
    return report
end

-- ── waiting takes ──

local function enlist(waiter)
    waiter.listed = true
    for at, tube in ipairs(waiter.tubes) do
        local list = waiting[tube.number]
        if list == nil then
            list = {}
            waiting[tube.number] = list
        end
        local node = {waiter = waiter, list = list, before = list.last}
        if list.last then
            list.last.after = node
        else
            list.first = node
        end
        list.last = node
        waiter.nodes[at] = node
    end
end

local function delist(waiter)
    if not waiter.listed then
        return
    end
    waiter.listed = false
    for at, node in ipairs(waiter.nodes) do
        local list = node.list
        if node.before then node.before.after = node.after else list.first = node.after end
        if node.after then node.after.before = node.before else list.last = node.before end
        waiter.nodes[at] = nil
    end
end

-- Let the take that waits longest look again. It wakes the next one if there is more than it wants.
local function wake(tube)
    local list = waiting[tube]
    local node = list and list.first
    if node then
        delist(node.waiter)
        node.waiter.woken = true
        node.waiter.cond:signal()
    end
end

local function wake_all()
    for tube in pairs(waiting) do
        wake(tube)
    end
end

local function ring()
    if bell then
        bell:signal()
    end
end

local function after(delta)
    if next(delta.lanes) == nil then
        return
    end
    for tube in pairs(delta.wakes) do
        wake(tube)
    end
    if delta.alarm < alarm then
        alarm = delta.alarm
        ring()
    end
end

-- ── whose a task is ──

local function session_of(sid)
    local session = sessions[sid]
    if session == nil then
        session = {tasks = {}, n = 0, waits = 0, dead = false}
        sessions[sid] = session
    end
    return session
end

local function tidy(sid)
    local session = sessions[sid]
    if session ~= nil and session.n == 0 and session.waits == 0 then
        sessions[sid] = nil
    end
end

local function own(id, sid)
    local session = session_of(sid)
    session.tasks[id], session.n = true, session.n + 1
    owners[id] = sid
end

local function disown(id)
    local sid = owners[id]
    local session = sid ~= nil and sessions[sid]
    owners[id] = nil
    if session and session.tasks[id] then
        session.tasks[id], session.n = nil, session.n - 1
        tidy(sid)
    end
    return sid
end

local function let_go(delta, id)
    local sid = disown(id)
    if sid ~= nil then
        table.insert(delta.undo, function() own(id, sid) end)
    end
end

-- The task if this session took it from this tube, else nil.
local function mine(tube, id, sid)
    if id == nil or owners[id] ~= sid then
        return nil
    end
    local task = box.space.tubes_tasks:get(id)
    if task == nil or task[TUBE] ~= tube.number or task[STATE] ~= 't' then
        return nil
    end
    return task
end

local function must_be_mine(tube, id, sid)
    local task = mine(tube, id, sid)
    if task == nil then
        fail('not-taken', 'task %s of tube %s is not taken by this session', tostring(id), tube.name)
    end
    return task
end

-- ── making tubes and tasks ──

local function create_one(delta, name, ttr)
    local tube = store.by_name[name]
    if tube == nil then
        tube = store.add_tube(#store.by_number + 1, name, ttr)
        table.insert(delta.undo, function() store.remove_tube(tube.number) end)
    else
        local before = tube.ttr
        tube.ttr = ttr
        table.insert(delta.undo, function() tube.ttr = before end)
    end
    box.space.tubes_names:replace({tube.number, name, ttr})
    return name
end

-- Make a tube unless it is there. opts: ttr (seconds, 60), what a task has that says nothing of it.
function M.create(name, opts)
    if type(name) ~= 'string' or not name:match('^[%w_.:-]+$') then
        fail('bad-name', 'a tube is named by letters, digits and _.:- only')
    end
    opts = check_options(opts, {ttr = true})
    local tube = store.by_name[name]
    local ttr = number(opts, 'ttr', tube and tube.ttr or DEFAULT_TTR, 0.001)
    if tube ~= nil and tube.ttr == ttr then
        return name
    end
    return store.atomic(after, create_one, name, ttr)
end

local function put_one(delta, tube, data, opts, now)
    if data == nil then
        fail('bad-data', 'a task needs data')
    end
    opts = check_options(opts, OPTIONS)
    local group, unique, pri = text(opts, 'group'), text(opts, 'unique'), number(opts, 'pri', 0, -2 ^ 31)
    local id = store.new_id()
    if unique ~= '' then
        if group == '' then
            fail('bad-option', 'unique needs a group: it is kept until the group is forgotten')
        end
        local seen = box.space.tubes_unique:get({tube.number, unique})
        if seen ~= nil then
            return tonumber(seen[4])
        end
        box.space.tubes_unique:insert({tube.number, unique, group, id})
    end
    local expires = now + number(opts, 'ttl', NEVER, 0)
    local due = number(opts, 'due', now + number(opts, 'delay', 0, 0), 0)
    local row = {id, tube.number, 'r', math.floor(pri), 0, number(opts, 'ttr', tube.ttr, 0.001), 0, expires,
        group, number(opts, 'cost', 1, 0), unique, now, opts.note, '', data}
    if row[NOTE] == nil then
        row[NOTE] = box.NULL
    end
    local known = store.groups[group]
    store.insert(delta, row, due, now)
    if known ~= nil and known.state == 'dropped' then
        store.finish(delta, box.space.tubes_tasks:get(id), 'dropped')
    end
    return id
end

-- Put one task; its id. One with a unique name that was there is not put again: the id of the first.
function M.put(name, data, opts)
    local tube, now = called(name, 'put'), M.clock()
    if tube.calls.put % 64 == 1 then
        store.check_memory()
    end
    return store.atomic(after, put_one, tube, data, opts, now)
end

local function put_all(delta, tube, rows, now)
    local ids = {}
    for at, row in ipairs(rows) do
        ids[at] = put_one(delta, tube, row[1], row[2], now)
    end
    return ids
end

-- Put tasks {{data, opts}, ...}: all, or none and an error; their ids.
function M.put_many(name, rows)
    local tube, now = called(name, 'put_many'), M.clock()
    store.check_memory()
    return store.atomic(after, put_all, tube, rows, now)
end

-- ── taking ──

-- Whether tasks of a group may be taken; if its rate alone says no, from when on (monotonic seconds).
local function gate(group, mono)
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
            elseif from ~= nil and from < slot then
                slot = from
                ring()
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
            own(id, sid)
            table.insert(delta.undo, function() disown(id) end)
            -- {tube, id, attempts, data}, the data as it lies there: nothing is decoded
            return task:transform(1, DATA - 1, tube.name, id, task[ATTEMPTS])
        end
    end
end

local function pick(delta, tubes, limit, sid)
    local now, mono, rows, heads = M.clock(), M.monotonic(), {}, {}
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
            wake(tube.number)
        end
    end
end

local function give_all_back(delta, ids, now)
    for _, id in ipairs(ids) do
        local task = box.space.tubes_tasks:get(id)
        let_go(delta, id)
        if task ~= nil and task[STATE] == 't' then
            store.give_back(delta, task, now, now)
        end
    end
end

-- Tasks of a session that is gone.
local function abandon(sid)
    local session = sessions[sid]
    while session ~= nil and session.n > 0 do
        local ids = {}
        for id in pairs(session.tasks) do
            ids[#ids + 1] = id
            if #ids == store.BATCH then
                break
            end
        end
        store.atomic(after, give_all_back, ids, M.clock())
    end
    tidy(sid)
end

local function wait_for_tasks(waiter, session, deadline, limit, sid)
    while true do
        if stopped or session.dead then
            return {}
        end
        if anything(waiter.tubes) then
            local rows = store.atomic(after, pick, waiter.tubes, limit, sid)
            if #rows > 0 then
                return rows
            end
        end
        local left = deadline - fiber.clock()
        if left <= 0 or stopped or session.dead then
            return {}
        end
        waiter.woken = false
        enlist(waiter)
        waiter.cond:wait(left)
        delist(waiter)
    end
end

-- Take up to `limit` tasks out of the tubes in turn; waits up to `timeout` seconds for the first. Rows
-- {tube, id, attempts, data}; attempts: how often it was taken before.
function M.take(names, timeout, limit)
    local sid = box.session.id() -- before any yield: it is this request's only now
    if box.is_in_txn() then
        fail('in-transaction', 'take waits: it cannot be part of a transaction')
    end
    local tubes = {}
    for at, name in ipairs(type(names) == 'table' and names or {names}) do
        tubes[at] = called(name, 'take')
    end
    if #tubes == 0 then
        fail('no-tube', 'take needs the name of a tube')
    end
    limit = math.min(number({limit = limit}, 'limit', 1, 1), MOST)
    local deadline = fiber.clock() + math.min(number({timeout = timeout}, 'timeout', 0, 0), LONGEST)
    local session = session_of(sid)
    local waiter = {tubes = tubes, nodes = {}, cond = fiber.cond()}
    session.waits = session.waits + 1
    session.waiters = session.waiters or {}
    session.waiters[waiter] = true
    local ok, rows = pcall(wait_for_tasks, waiter, session, deadline, limit, sid)
    delist(waiter)
    session.waiters[waiter] = nil
    session.waits = session.waits - 1
    if session.dead then -- it went while its tasks were written as taken
        abandon(sid)
        rows = {}
    else
        tidy(sid)
    end
    if waiter.woken or (ok and #rows > 0) then
        pass_on(tubes)
    end
    if not ok then
        error(rows, 0)
    end
    return rows
end

-- ── settling ──

local function ack_all(delta, tube, list, sid)
    local lost = {}
    for _, entry in ipairs(list) do
        local given, report = entry, nil
        if type(entry) == 'table' then
            given, report = entry[1], entry[2]
        end
        local id = tonumber(given)
        local task = mine(tube, id, sid)
        if task == nil then
            lost[#lost + 1] = given
        else
            for reason, n in pairs(check_report(report)) do
                store.tally(delta, task[GROUP], tube.number, reason, tonumber(n))
            end
            let_go(delta, id)
            store.finish(delta, task, 'acked')
        end
    end
    return lost
end

-- Tasks {{id, report}, ...} are done. The ids that this session has not taken (any more): they stay.
function M.ack(name, list)
    local sid = box.session.id()
    return store.atomic(after, ack_all, called(name, 'ack'), list, sid)
end

local function shorten(delta, tube, id, data, report, cost, sid)
    local task = must_be_mine(tube, id, sid)
    local done = 0
    for reason, n in pairs(check_report(report)) do
        store.tally(delta, task[GROUP], tube.number, reason, tonumber(n))
        done = done + tonumber(n)
    end
    store.shorten(delta, task, data, number({cost = cost}, 'cost', math.max(task[COST] - done, 0), 0))
end

-- A part of a task is done: `data` is what remains, it stays taken. cost: what the rest costs; if it is not
-- given, the report's numbers are taken off.
function M.ack_part(name, id, data, report, cost)
    local sid = box.session.id()
    if data == nil then
        fail('bad-data', 'a task needs data')
    end
    store.atomic(after, shorten, called(name, 'ack_part'), tonumber(id), data, report, cost, sid)
end

local function release_all(delta, tube, ids, due, now, sid)
    local lost = {}
    for _, given in ipairs(ids) do
        local id = tonumber(given)
        local task = mine(tube, id, sid)
        if task == nil then
            lost[#lost + 1] = given
        else
            let_go(delta, id)
            store.give_back(delta, task, due, now)
        end
    end
    return lost
end

-- Give tasks back, to be ready after `delay` seconds. The ids that this session has not taken.
function M.release(name, ids, delay)
    local sid, now = box.session.id(), M.clock()
    local due = now + number({delay = delay}, 'delay', 0, 0)
    return store.atomic(after, release_all, called(name, 'release'), ids, due, now, sid)
end

local function touch_all(delta, tube, ids, ttr, now, sid)
    local lost = {}
    for _, given in ipairs(ids) do
        local task = mine(tube, tonumber(given), sid)
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
    ttr = number({ttr = ttr}, 'ttr', nil, 0)
    return store.atomic(after, touch_all, called(name, 'touch'), ids, ttr, M.clock(), sid)
end

local function bury_one(delta, tube, id, reason, report, sid)
    local task = box.space.tubes_tasks:get(id)
    if task == nil or task[TUBE] ~= tube.number or task[STATE] == 't' or task[STATE] == 'b' then
        task = must_be_mine(tube, id, sid)
    end
    if report == nil then
        report = {[reason] = tonumber(task[COST])}
    end
    for word, n in pairs(check_report(report)) do
        store.tally(delta, task[GROUP], tube.number, word, tonumber(n))
    end
    let_go(delta, id)
    store.bury(delta, task, reason)
end

-- Put a task aside until it is kicked or deleted. Without a report its cost is counted under the reason.
function M.bury(name, id, reason, report)
    local sid = box.session.id()
    reason = text({reason = reason or 'buried'}, 'reason')
    store.atomic(after, bury_one, called(name, 'bury'), tonumber(id), reason, report, sid)
end

local function delete_one(delta, tube, id)
    local task = id and box.space.tubes_tasks:get(id)
    if task == nil or task[TUBE] ~= tube.number then
        return false
    end
    let_go(delta, id)
    store.finish(delta, task, 'deleted')
    return true
end

-- Delete a task, whoever has it; whether it was there.
function M.delete(name, id)
    return store.atomic(after, delete_one, called(name, 'delete'), tonumber(id))
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
    local tube = called(name, 'kick')
    n = math.min(number({n = n}, 'n', 1, 1), MOST)
    return store.atomic(after, kick_some, tube, n, M.clock())
end

-- ── looking ──

-- A task as a map, or nil.
function M.peek(name, id)
    local tube = called(name, 'peek')
    local task = tonumber(id) and box.space.tubes_tasks:get(tonumber(id))
    if task == nil or task[TUBE] ~= tube.number then
        return nil
    end
    local shown = {id = tonumber(task[ID]), state = STATES[task[STATE]], pri = task[4], ttr = task[TTR],
        attempts = task[ATTEMPTS], group = task[GROUP], cost = task[COST], unique = task[11],
        created = task[12], note = task[NOTE], reason = task[REASON], data = task[DATA]}
    if task[EXPIRES] < NEVER then shown.expires = task[EXPIRES] end
    if task[STATE] == 'd' or task[STATE] == 't' then shown.event = task[EVENT] end
    return shown
end

-- The oldest of the first ready tasks of each group and priority.
local function oldest_ready(tube)
    local index, oldest = box.space.tubes_tasks.index.lane, nil
    for group, lane in pairs(store.lanes[tube.number]) do
        local task = lane.r > 0 and index:min({tube.number, 'r', group}) or nil
        for _ = 1, 100 do
            if task == nil then
                break
            end
            oldest = math.min(oldest or NEVER, task[12])
            task = index:select({tube.number, 'r', group, task[4]}, {iterator = 'GT', limit = 1})[1]
            if task ~= nil and (task[TUBE] ~= tube.number or task[STATE] ~= 'r' or task[GROUP] ~= group) then
                task = nil
            end
        end
    end
    return oldest
end

-- {tasks = {ready, delayed, taken, buried, total}, calls = {name = number}, oldest = age of the oldest ready
-- task in seconds (0 if none), waiting = takes under way, sessions = that hold or wait for tasks}.
function M.stats(name)
    local tube = called(name, 'stats')
    local shown = {ready = 0, delayed = 0, taken = 0, buried = 0, total = 0}
    for _, lane in pairs(store.lanes[tube.number]) do
        for state, long in pairs(STATES) do
            shown[long] = shown[long] + lane[state]
            shown.total = shown.total + lane[state]
        end
    end
    local oldest, waits, node = oldest_ready(tube), 0, (waiting[tube.number] or NONE).first
    while node do
        waits, node = waits + 1, node.after
    end
    local n = 0
    for _ in pairs(sessions) do
        n = n + 1
    end
    return {tasks = shown, calls = table.copy(tube.calls), waiting = waits, sessions = n,
        oldest = oldest and math.max(M.clock() - oldest, 0) or 0}
end

-- ── groups ──

local GROUP_STATES = {running = true, paused = true, dropped = true}

local function show_group(name)
    local known = store.groups[name] or {state = 'running', rate = 0, burst = 0}
    return {name = name, state = known.state, rate = known.rate, burst = known.burst}
end

local function sweep(delta, tube, group, states)
    local n = 0
    for _, state in ipairs(states) do
        local key = {tube, state, group}
        for _, task in ipairs(box.space.tubes_tasks.index.lane:select(key, {limit = store.BATCH - n})) do
            store.finish(delta, task, state == 'b' and 'deleted' or 'dropped')
            n = n + 1
        end
    end
    return n
end

local function drop_groups()
    for name, known in pairs(table.copy(store.groups)) do
        if known.state == 'dropped' then
            for tube, lanes in pairs(store.lanes) do
                while lanes[name] ~= nil and lanes[name].r + lanes[name].d > 0
                    and store.groups[name] == known do
                    store.atomic(after, sweep, tube, name, {'r', 'd'})
                end
            end
        end
    end
end

local function set_group(delta, name, wanted)
    local before = store.groups[name]
    local mono = M.monotonic()
    if wanted.rate > 0 and before ~= nil and before.rate > 0 and wanted.tat > mono then
        -- what is left of the wait shrinks or grows with the rate
        wanted.tat = mono + (wanted.tat - mono) * before.rate / wanted.rate
    end
    box.space.tubes_groups:replace({name, wanted.state, wanted.rate, wanted.burst})
    store.groups[name] = wanted
    table.insert(delta.undo, function() store.groups[name] = before end)
end

local function look_again()
    slot = -NEVER -- the timer looks at all groups
    ring()
end

-- Set what is given of a group, and say how it is. opts: state; rate (cost a second, 0 for none); burst (cost
-- that may come at once before its slot). After `dropped` its ready and delayed tasks are gone (within a
-- transaction: soon after it).
function M.group(name, opts)
    if type(name) ~= 'string' or name == '' then
        fail('bad-option', 'a group is named by a text that is not empty')
    end
    if opts == nil then
        return show_group(name)
    end
    opts = check_options(opts, {state = true, rate = true, burst = true})
    local known = store.groups[name] or {state = 'running', rate = 0, burst = 0, tat = -NEVER}
    local state = opts.state == nil and known.state or opts.state
    if not GROUP_STATES[state] then
        fail('bad-option', 'state has to be running, paused or dropped')
    end
    local rate, burst = number(opts, 'rate', known.rate, 0), number(opts, 'burst', known.burst, 0)
    store.atomic(look_again, set_group, name, {state = state, rate = rate, burst = burst, tat = known.tat})
    if state == 'dropped' and not box.is_in_txn() then
        drop_groups()
    end
    return show_group(name)
end

-- tube -> reason -> number.
function M.counts(group)
    local found = setmetatable({}, {__serialize = 'map'})
    for _, row in box.space.tubes_counts:pairs({group}) do
        local tube = store.by_number[row[2]].name
        found[tube] = found[tube] or {}
        found[tube][row[3]] = tonumber(row[4])
    end
    return found
end

-- tube -> {ready, delayed, taken, buried = tasks, cost = of all of them}.
function M.pending(group)
    local found = setmetatable({}, {__serialize = 'map'})
    for number_, lanes in pairs(store.lanes) do
        local lane = lanes[group]
        if lane ~= nil then
            local shown = {cost = lane.cost}
            for state, long in pairs(STATES) do
                shown[long] = lane[state]
            end
            found[store.by_number[number_].name] = shown
        end
    end
    return found
end

-- Forget a group that has nothing to do any more: its state, counts, unique names and buried tasks.
function M.forget(group)
    if box.is_in_txn() then
        fail('in-transaction', 'forget takes several transactions: it cannot be part of one')
    end
    for tube, lanes in pairs(store.lanes) do
        local lane = lanes[group]
        if lane ~= nil and lane.r + lane.d + lane.t > 0 then
            fail('busy', 'group %s has %d tasks in tube %s: drop it first', group, lane.r + lane.d + lane.t,
                store.by_number[tube].name)
        end
    end
    for tube in pairs(store.by_number) do
        while store.lanes[tube][group] and store.atomic(after, sweep, tube, group, {'b'}) > 0 do
            fiber.yield()
        end
    end
    while true do
        local names = box.space.tubes_unique.index.group:select({group}, {limit = store.BATCH})
        box.begin()
        for _, row in ipairs(names) do
            box.space.tubes_unique:delete({row[1], row[2]})
        end
        box.commit()
        if #names == 0 then
            break
        end
    end
    box.begin()
    for _, row in ipairs(box.space.tubes_counts:select({group})) do
        box.space.tubes_counts:delete({row[1], row[2], row[3]})
    end
    box.space.tubes_groups:delete(group)
    store.groups[group] = nil
    box.commit()
end

-- Have fn(tube, id, data, group, note, how) called within the transaction in which a task ends. how: acked,
-- buried, dropped, expired, deleted. fn must not yield; if it raises, nothing is done. opts: name (a second
-- hook of the same name replaces the first), data = false (nil is given for it: it need not be decoded).
function M.on_done(fn, opts)
    opts = check_options(opts, {name = true, data = true})
    local hook = {fn = fn, name = opts.name or '', data = opts.data ~= false}
    for at, each in ipairs(store.hooks) do
        if each.name == hook.name then
            store.hooks[at] = hook
            return
        end
    end
    table.insert(store.hooks, hook)
end

-- ── time ──

local function act(delta, now)
    local n, wanted = 0, {}
    for _, task in box.space.tubes_tasks.index.event:pairs() do
        if task[EVENT] > now or #wanted == store.BATCH then
            break
        end
        wanted[#wanted + 1] = task
    end
    for _, task in ipairs(wanted) do
        let_go(delta, tonumber(task[ID]))
        store.give_back(delta, task, now, now)
        n = n + 1
    end
    return n
end

-- Do what is due now, a transaction for each 1,000 tasks. The timer calls it; a test with its own clock may.
function M.tick()
    if slot <= M.monotonic() then
        slot = NEVER
        drop_groups()
        wake_all()
    end
    while store.atomic(after, act, M.clock()) > 0 do
        fiber.yield()
    end
    local first = box.space.tubes_tasks.index.event:min()
    alarm = first and first[EVENT] or NEVER
end

local function run_timer(mine_)
    while not stopped and bell == mine_ do
        local ok, problem = pcall(M.tick)
        if not ok then
            slot = -NEVER
            log.error('tubes: timer: %s', tostring(problem))
        end
        -- at most a second: the clock may be set
        local left = ok and math.min(alarm - M.clock(), slot - M.monotonic(), 1) or 1
        if left > 0 then
            mine_:wait(left)
        end
    end
end

-- ── start and end ──

local function on_disconnect()
    local sid = box.session.id()
    local session = sessions[sid]
    if session == nil then
        return
    end
    session.dead = true
    for waiter in pairs(session.waiters or NONE) do
        waiter.cond:signal()
    end
    local ok, problem = pcall(abandon, sid)
    if not ok then -- their ttr brings them back
        log.error('tubes: tasks of session %d: %s', sid, tostring(problem))
    end
end

-- What was taken by sessions of before a restart is ready again.
local function recover()
    local lost = {}
    for tube in pairs(store.lanes) do
        for _, task in box.space.tubes_tasks.index.lane:pairs({tube, 't'}) do
            if owners[tonumber(task[ID])] == nil then
                lost[#lost + 1] = tonumber(task[ID])
            end
        end
    end
    for from = 1, #lost, store.BATCH do
        local batch = {unpack(lost, from, math.min(from + store.BATCH - 1, #lost))}
        store.atomic(after, give_all_back, batch, M.clock())
    end
end

function M.start(old)
    store = rawget(_G, 'tubes_store')
    if old ~= nil then
        M.clock, M.monotonic = old.clock, old.monotonic
        sessions, owners = old.holders() -- who has taken a task keeps it
    end
    recover()
    box.session.on_disconnect(on_disconnect, old and old.disconnected)
    M.disconnected = on_disconnect
    bell, slot = fiber.cond(), -NEVER
    local timer = fiber.create(run_timer, bell)
    timer:name('tubes', {truncate = true})
end

function M.holders()
    return sessions, owners
end

function M.stop()
    stopped = true
    ring()
    for _, session in pairs(sessions) do
        for waiter in pairs(session.waiters or NONE) do
            waiter.cond:signal()
        end
    end
end

return M
