-- Tubes: named queues of tasks, local to this Tarantool server. Global table `tubes`; docs/tubes.md tells what
-- the operations mean.
--
-- A task is ready, delayed, taken or buried. What is taken belongs to the session that took it, until it is
-- settled, its time to run is over, or the session ends: then the task is ready again, at once.
local clock = require('clock')
local fiber = require('fiber')
local log = require('log')

local M = {version = 1, migrations = {}, needs = {
    'tubes_store', 'tubes_calls', 'tubes_holders', 'tubes_taking', 'tubes_settling', 'tubes_groups', 'tubes_looking',
}}

M.functions = {
    consumer = {'take', 'ack', 'ack_part', 'release', 'touch', 'bury', 'stats', 'counts', 'pending'},
    producer = {'create', 'put', 'put_many', 'group', 'counts', 'pending', 'forget', 'stats'},
    operator = {'stats', 'counts', 'pending', 'peek', 'kick', 'delete', 'group'},
}

-- Epoch seconds (delays, ttl, ttr) and seconds that never step (rates); a test may put others here.
M.clock = clock.time
M.monotonic = clock.monotonic

local store, calls, holders, taking, groups
local NEVER = math.huge
local ID, EVENT, EXPIRES, NOTE = 1, 5, 8, 13
local DEFAULT_TTR = 60
-- What stands in modules of their own.
local OPERATIONS = {
    tubes_taking = {'take'},
    tubes_settling = {'ack', 'ack_part', 'release', 'touch', 'bury', 'delete', 'kick'},
    tubes_groups = {'group', 'counts', 'pending', 'forget'},
    tubes_looking = {'peek', 'stats'},
}
local OPTIONS = {pri = true, ttl = true, ttr = true, delay = true, due = true, group = true, cost = true,
    unique = true, note = true}

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
        calls.fail('bad-name', 'a tube is named by letters, digits and _.:- only')
    end
    opts = calls.check_options(opts, {ttr = true})
    local tube = store.by_name[name]
    local ttr = calls.number(opts, 'ttr', tube and tube.ttr or DEFAULT_TTR, 0.001)
    if tube ~= nil and tube.ttr == ttr then
        return name
    end
    return store.atomic(holders.after, create_one, name, ttr)
end

local function put_one(delta, tube, data, opts, now)
    if data == nil then
        calls.fail('bad-data', 'a task needs data')
    end
    opts = calls.check_options(opts, OPTIONS)
    local group, unique = calls.text(opts, 'group'), calls.text(opts, 'unique')
    local pri = calls.number(opts, 'pri', 0, -2 ^ 31)
    local id = store.new_id()
    if unique ~= '' then
        if group == '' then
            calls.fail('bad-option', 'unique needs a group: it is kept until the group is forgotten')
        end
        local seen = box.space.tubes_unique:get({tube.number, unique})
        if seen ~= nil then
            return tonumber(seen[4])
        end
        box.space.tubes_unique:insert({tube.number, unique, group, id})
    end
    local expires = now + calls.number(opts, 'ttl', NEVER, 0)
    local due = calls.number(opts, 'due', now + calls.number(opts, 'delay', 0, 0), 0)
    local row = {id, tube.number, 'r', math.floor(pri), 0, calls.number(opts, 'ttr', tube.ttr, 0.001), 0, expires,
        group, calls.number(opts, 'cost', 1, 0), unique, now, opts.note, '', data}
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
    local tube, now = calls.called(name, 'put'), calls.clock()
    if tube.calls.put % 64 == 1 then
        store.check_memory()
    end
    return store.atomic(holders.after, put_one, tube, data, opts, now)
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
    local tube, now = calls.called(name, 'put_many'), calls.clock()
    store.check_memory()
    return store.atomic(holders.after, put_all, tube, rows, now)
end

-- Have fn(tube, id, data, group, note, how) called within the transaction in which a task ends. how: acked,
-- buried, dropped, expired, deleted. fn must not yield; if it raises, nothing is done. opts: name (a second
-- hook of the same name replaces the first), data = false (nil is given for it: it need not be decoded), part: a
-- function (tube, id, rest) for a task of which a part is done, likewise.
function M.on_done(fn, opts)
    opts = calls.check_options(opts, {name = true, data = true, part = true})
    local hook = {fn = fn, name = opts.name or '', data = opts.data ~= false, part = opts.part}
    for at, each in ipairs(store.hooks) do
        if each.name == hook.name then
            store.hooks[at] = hook
            return
        end
    end
    table.insert(store.hooks, hook)
end

-- What a server does that is one of several. opts: closed, a function (group) that says whether the group's tasks
-- must not be handed out now; settled, one that is called when a settlement is written, and may wait before it is
-- answered.
function M.stand(opts)
    opts = calls.check_options(opts, {closed = true, settled = true})
    store.stand = {closed = opts.closed, settled = opts.settled}
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
        holders.let_go(delta, tonumber(task[ID]))
        store.give_back(delta, task, now, now)
        n = n + 1
    end
    return n
end

-- Do what is due now, a transaction for each 1,000 tasks. The timer calls it; a test with its own clock may.
function M.tick()
    if holders.slot <= calls.monotonic() then
        holders.slot = NEVER
        groups.drop_groups()
        holders.wake_all()
    end
    while store.atomic(holders.after, act, calls.clock()) > 0 do
        fiber.yield()
    end
    local first = box.space.tubes_tasks.index.event:min()
    holders.alarm = first and first[EVENT] or NEVER
end

local function run_timer(mine_)
    while not calls.stopped and holders.bell == mine_ do
        local ok, problem = pcall(M.tick)
        if not ok then
            holders.slot = -NEVER
            log.error('tubes: timer: %s', tostring(problem))
        end
        -- at most a second: the clock may be set
        local left = ok and math.min(holders.alarm - calls.clock(), holders.slot - calls.monotonic(), 1) or 1
        if left > 0 then
            mine_:wait(left)
        end
    end
end

-- ── start and end ──

local function on_disconnect()
    local sid = box.session.id()
    local session = holders.sessions[sid]
    if session == nil then
        return
    end
    session.dead = true
    for waiter in pairs(session.waiters or calls.NONE) do
        waiter.cond:signal()
    end
    local ok, problem = pcall(taking.abandon, sid)
    if not ok then -- their ttr brings them back
        log.error('tubes: tasks of session %d: %s', sid, tostring(problem))
    end
end

-- What was taken by sessions of before a restart is ready again.
local function recover()
    local lost = {}
    for tube in pairs(store.lanes) do
        for _, task in box.space.tubes_tasks.index.lane:pairs({tube, 't'}) do
            if holders.owners[tonumber(task[ID])] == nil then
                lost[#lost + 1] = tonumber(task[ID])
            end
        end
    end
    for from = 1, #lost, store.BATCH do
        local batch = {unpack(lost, from, math.min(from + store.BATCH - 1, #lost))}
        store.atomic(holders.after, taking.give_all_back, batch, calls.clock())
    end
end

function M.start(old)
    store, calls, holders = rawget(_G, 'tubes_store'), rawget(_G, 'tubes_calls'), rawget(_G, 'tubes_holders')
    taking, groups = rawget(_G, 'tubes_taking'), rawget(_G, 'tubes_groups')
    for module, names in pairs(OPERATIONS) do
        for _, name in ipairs(names) do
            M[name] = rawget(_G, module)[name]
        end
    end
    calls.serve(M)
    if old ~= nil then
        M.clock, M.monotonic = old.clock, old.monotonic
        holders.sessions, holders.owners = old.holders() -- who has taken a task keeps it
    end
    recover()
    box.session.on_disconnect(on_disconnect, old and old.disconnected)
    M.disconnected = on_disconnect
    holders.bell, holders.slot = fiber.cond(), -NEVER
    local timer = fiber.create(run_timer, holders.bell)
    timer:name('tubes', {truncate = true})
end

function M.holders()
    return holders.sessions, holders.owners
end

function M.stop()
    calls.stopped = true
    holders.ring()
    for _, session in pairs(holders.sessions) do
        for waiter in pairs(session.waiters or calls.NONE) do
            waiter.cond:signal()
        end
    end
end

return M
