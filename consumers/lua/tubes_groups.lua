-- Groups: their state and rate, what they have counted, and their end. Used by `tubes` alone.
local fiber = require('fiber')

local M = {version = 1, needs = {'tubes_store', 'tubes_calls', 'tubes_holders'}}

local calls, holders, store
local NEVER = math.huge
local STATES = {r = 'ready', d = 'delayed', t = 'taken', b = 'buried'}

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

function M.drop_groups()
    for name, known in pairs(table.copy(store.groups)) do
        if known.state == 'dropped' then
            for tube, lanes in pairs(store.lanes) do
                while lanes[name] ~= nil and lanes[name].r + lanes[name].d > 0
                    and store.groups[name] == known do
                    store.atomic(holders.after, sweep, tube, name, {'r', 'd'})
                end
            end
        end
    end
end

local function set_group(delta, name, wanted)
    local before = store.groups[name]
    local mono = calls.monotonic()
    if wanted.rate > 0 and before ~= nil and before.rate > 0 and wanted.tat > mono then
        -- what is left of the wait shrinks or grows with the rate
        wanted.tat = mono + (wanted.tat - mono) * before.rate / wanted.rate
    end
    box.space.tubes_groups:replace({name, wanted.state, wanted.rate, wanted.burst})
    store.groups[name] = wanted
    table.insert(delta.undo, function() store.groups[name] = before end)
end

local function look_again()
    holders.slot = -NEVER -- the timer looks at all groups
    holders.ring()
end

-- Set what is given of a group, and say how it is. opts: state; rate (cost a second, 0 for none); burst (cost
-- that may come at once before its slot). After `dropped` its ready and delayed tasks are gone (within a
-- transaction: soon after it).
function M.group(name, opts)
    if type(name) ~= 'string' or name == '' then
        calls.fail('bad-option', 'a group is named by a text that is not empty')
    end
    if opts == nil then
        return show_group(name)
    end
    opts = calls.check_options(opts, {state = true, rate = true, burst = true})
    local known = store.groups[name] or {state = 'running', rate = 0, burst = 0, tat = -NEVER}
    local state = opts.state == nil and known.state or opts.state
    if not GROUP_STATES[state] then
        calls.fail('bad-option', 'state has to be running, paused or dropped')
    end
    local rate, burst = calls.number(opts, 'rate', known.rate, 0), calls.number(opts, 'burst', known.burst, 0)
    store.atomic(look_again, set_group, name, {state = state, rate = rate, burst = burst, tat = known.tat})
    if state == 'dropped' and not box.is_in_txn() then
        M.drop_groups()
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
        calls.fail('in-transaction', 'forget takes several transactions: it cannot be part of one')
    end
    for tube, lanes in pairs(store.lanes) do
        local lane = lanes[group]
        if lane ~= nil and lane.r + lane.d + lane.t > 0 then
            calls.fail('busy', 'group %s has %d tasks in tube %s: drop it first', group, lane.r + lane.d + lane.t,
                store.by_number[tube].name)
        end
    end
    for tube in pairs(store.by_number) do
        while store.lanes[tube][group] and store.atomic(holders.after, sweep, tube, group, {'b'}) > 0 do
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

function M.start()
    store, calls, holders = rawget(_G, 'tubes_store'), rawget(_G, 'tubes_calls'), rawget(_G, 'tubes_holders')
end

return M
