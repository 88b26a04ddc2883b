-- Who waits for tasks, and who has taken which. Used by the modules of `tubes` alone.
local M = {version = 1, needs = {'tubes_store', 'tubes_calls'}}

local calls
local NEVER = math.huge
local TUBE, STATE = 2, 3

-- session id -> {tasks = {id -> true}, n = how many, waits = its takes under way, dead}
M.sessions = {}
-- id of a taken task -> session id
M.owners = {}
-- tube number -> {first, last} of a list of waiting takes
M.waiting = {}
-- when the timer looks next: epoch seconds; and the first slot of a group with a rate, monotonic seconds
M.alarm, M.slot = 0, NEVER
-- The timer waits for it.
M.bell = nil

-- ── waiting takes ──

function M.enlist(waiter)
    waiter.listed = true
    for at, tube in ipairs(waiter.tubes) do
        local list = M.waiting[tube.number]
        if list == nil then
            list = {}
            M.waiting[tube.number] = list
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

function M.delist(waiter)
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
function M.wake(tube)
    local list = M.waiting[tube]
    local node = list and list.first
    if node then
        M.delist(node.waiter)
        node.waiter.woken = true
        node.waiter.cond:signal()
    end
end

function M.wake_all()
    for tube in pairs(M.waiting) do
        M.wake(tube)
    end
end

function M.ring()
    if M.bell then
        M.bell:signal()
    end
end

function M.after(delta)
    if next(delta.lanes) == nil then
        return
    end
    for tube in pairs(delta.wakes) do
        M.wake(tube)
    end
    if delta.alarm < M.alarm then
        M.alarm = delta.alarm
        M.ring()
    end
end

-- ── whose a task is ──

function M.session_of(sid)
    local session = M.sessions[sid]
    if session == nil then
        session = {tasks = {}, n = 0, waits = 0, dead = false}
        M.sessions[sid] = session
    end
    return session
end

function M.tidy(sid)
    local session = M.sessions[sid]
    if session ~= nil and session.n == 0 and session.waits == 0 then
        M.sessions[sid] = nil
    end
end

function M.own(id, sid)
    local session = M.session_of(sid)
    session.tasks[id], session.n = true, session.n + 1
    M.owners[id] = sid
end

function M.disown(id)
    local sid = M.owners[id]
    local session = sid ~= nil and M.sessions[sid]
    M.owners[id] = nil
    if session and session.tasks[id] then
        session.tasks[id], session.n = nil, session.n - 1
        M.tidy(sid)
    end
    return sid
end

function M.let_go(delta, id)
    local sid = M.disown(id)
    if sid ~= nil then
        table.insert(delta.undo, function() M.own(id, sid) end)
    end
end

-- The task if this session took it from this tube, else nil.
function M.mine(tube, id, sid)
    if id == nil or M.owners[id] ~= sid then
        return nil
    end
    local task = box.space.tubes_tasks:get(id)
    if task == nil or task[TUBE] ~= tube.number or task[STATE] ~= 't' then
        return nil
    end
    return task
end

function M.must_be_mine(tube, id, sid)
    local task = M.mine(tube, id, sid)
    if task == nil then
        calls.fail('not-taken', 'task %s of tube %s is not taken by this session', tostring(id), tube.name)
    end
    return task
end

function M.start()
    calls = rawget(_G, 'tubes_calls')
end

return M
