-- Looking: one task, and how a tube fares. Used by `tubes` alone.
local M = {version = 1, needs = {'tubes_store', 'tubes_calls', 'tubes_holders'}}

local calls, holders, store
local ID, TUBE, STATE, EVENT, TTR, ATTEMPTS, EXPIRES = 1, 2, 3, 5, 6, 7, 8
local GROUP, COST, NOTE, REASON, DATA = 9, 10, 13, 14, 15
local NEVER = math.huge
local STATES = {r = 'ready', d = 'delayed', t = 'taken', b = 'buried'}

-- A task as a map, or nil.
function M.peek(name, id)
    local tube = calls.called(name, 'peek')
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
    local tube = calls.called(name, 'stats')
    local shown = {ready = 0, delayed = 0, taken = 0, buried = 0, total = 0}
    for _, lane in pairs(store.lanes[tube.number]) do
        for state, long in pairs(STATES) do
            shown[long] = shown[long] + lane[state]
            shown.total = shown.total + lane[state]
        end
    end
    local oldest, waits, node = oldest_ready(tube), 0, (holders.waiting[tube.number] or calls.NONE).first
    while node do
        waits, node = waits + 1, node.after
    end
    local n = 0
    for _ in pairs(holders.sessions) do
        n = n + 1
    end
    return {tasks = shown, calls = table.copy(tube.calls), waiting = waits, sessions = n,
        oldest = oldest and math.max(calls.clock() - oldest, 0) or 0}
end

function M.start()
    store, calls, holders = rawget(_G, 'tubes_store'), rawget(_G, 'tubes_calls'), rawget(_G, 'tubes_holders')
end

return M
