-- What callers of tubes give, looked at: names, options, reports. Used by the modules of `tubes` alone.
local M = {version = 1, needs = {'tubes_store'}}

-- What is given where there are no options.
M.NONE = {}
-- The module is being replaced: whoever calls, calls again.
M.stopped = false

local store
-- The module `tubes`, which has the clocks that a test may set.
local tubes

-- Epoch seconds.
function M.clock()
    return tubes.clock()
end

-- Seconds that never step.
function M.monotonic()
    return tubes.monotonic()
end

function M.fail(...)
    return store.fail(...)
end

function M.tube_of(name)
    if M.stopped then
        M.fail('reloading', 'the module is being replaced, call again')
    end
    local tube = store.by_name[name]
    if tube == nil then
        M.fail('no-tube', 'there is no tube %s', tostring(name))
    end
    return tube
end

function M.called(name, what)
    local tube = M.tube_of(name)
    tube.calls[what] = (tube.calls[what] or 0) + 1
    return tube
end

function M.number(opts, key, default, lowest)
    local value = opts[key]
    if value == nil then
        return default
    end
    if type(value) == 'cdata' then
        value = tonumber(value)
    end
    if type(value) ~= 'number' or not (value >= lowest and value < 1e15) then
        M.fail('bad-option', '%s has to be a number from %g on, not %s', key, lowest, tostring(opts[key]))
    end
    return value
end

function M.text(opts, key)
    local value = opts[key]
    if value == nil then
        return ''
    end
    if type(value) ~= 'string' or value == '' then
        M.fail('bad-option', '%s has to be a text that is not empty', key)
    end
    return value
end

function M.check_options(opts, known)
    if opts == nil then
        return M.NONE
    elseif type(opts) ~= 'table' then
        M.fail('bad-option', 'options have to be a map')
    end
    for key in pairs(opts) do
        if not known[key] then
            M.fail('bad-option', 'there is no option %s', tostring(key))
        end
    end
    return opts
end

function M.check_report(report)
    if report == nil then
        return M.NONE
    elseif type(report) ~= 'table' then
        M.fail('bad-report', 'a report has to be a map of reasons to numbers')
    end
    for reason, n in pairs(report) do
        if type(reason) ~= 'string' or type(tonumber(n)) ~= 'number' then
            M.fail('bad-report', 'a report has to be a map of reasons to numbers')
        end
    end
    return report
end

-- Serve the module `tubes`, which starts: its clocks count.
function M.serve(module)
    tubes, M.stopped = module, false
end

function M.start()
    store = rawget(_G, 'tubes_store')
end

return M
