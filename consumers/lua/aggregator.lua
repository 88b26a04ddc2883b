-- Loads the Lua modules of this project into a Tarantool server: migrates their spaces, creates roles with
-- exactly the functions that each needs, and starts them. Global table `aggregator`.
--
-- A module is a chunk without side effects that returns a table:
--   version     whole number; clients refuse a server whose number is below theirs
--   needs       names of the modules that have to be started before it (optional)
--   migrations  functions, each run once by the writer of the replica set, in order (optional). They do DDL, so
--               each has to bear being run again after a crash in its middle (if_not_exists)
--   functions   role -> names of the functions that the role may call (optional)
--   start       function(old): old is the table of this name that was loaded before, or nil (optional)
--   stop        function(): the module is about to be replaced (optional)
-- After start() it becomes the global table of its file's name.
local fiber = require('fiber')
local log = require('log')

local M = {version = 1}
-- module -> version of all that is loaded
M.loaded = rawget(_G, 'aggregator') and rawget(_G, 'aggregator').loaded or {aggregator = M.version}

-- How long a replica waits for its writer to migrate first (seconds).
M.patience = 30

local SCHEMA = '_aggregator_schema'

local function fail(code, text, ...)
    box.error({type = code, reason = code .. ': ' .. text:format(...)})
end

local function migrated(name)
    local space = box.space[SCHEMA]
    local row = space and space:get(name)
    return row and row[2] or 0
end

local function wait_for_writer(name, wanted)
    local deadline = fiber.clock() + M.patience
    while migrated(name) < wanted do
        if fiber.clock() > deadline then
            fail('not-installed', 'this server is read-only and has schema %d of module %s; %d is wanted. ' ..
                'Install on the writer of its replica set first', migrated(name), name, wanted)
        end
        fiber.sleep(0.02)
    end
end

-- Refuse what cannot be loaded, before anything is touched.
local function check_schema(name, module)
    local known = #(module.migrations or {})
    if migrated(name) > known then
        fail('newer-schema', 'the spaces of module %s have schema %d, this code knows %d: ' ..
            'load the newer code', name, migrated(name), known)
    end
    if box.info.ro then
        wait_for_writer(name, known)
    end
end

local function migrate(name, module)
    local steps = module.migrations or {}
    for step = migrated(name) + 1, #steps do
        log.info('aggregator: migration %d of module %s', step, name)
        steps[step]()
        box.space[SCHEMA]:replace({name, step})
    end
end

local function grant(name, module)
    for role, functions in pairs(module.functions or {}) do
        role = 'aggregator_' .. role
        box.schema.role.create(role, {if_not_exists = true})
        for _, each in ipairs(functions) do
            local path = name .. '.' .. each
            -- setuid: it runs with its creator's rights, the caller needs none on any space
            box.schema.func.create(path, {setuid = true, if_not_exists = true})
            box.schema.role.grant(role, 'execute', 'function', path, {if_not_exists = true})
        end
    end
end

local function prepare()
    if box.info.ro then
        return
    end
    local space = box.schema.space.create(SCHEMA, {if_not_exists = true})
    space:create_index('pk', {parts = {{1, 'string'}}, if_not_exists = true})
    grant('aggregator', M)
end

local function compile(name, source)
    local chunk, problem = loadstring(source, '=' .. name .. '.lua')
    if chunk == nil then
        fail('bad-module', '%s', problem)
    end
    local module = chunk()
    if type(module) ~= 'table' or type(module.version) ~= 'number' then
        fail('bad-module', '%s.lua has to return a table with a version', name)
    end
    return module
end

-- The names in an order in which each comes after those that it needs.
local function in_order(modules)
    local names, done, order = {}, {}, {}
    for name in pairs(modules) do
        table.insert(names, name)
    end
    table.sort(names)
    local function visit(name, from)
        if done[name] == 'open' then
            fail('bad-module', 'module %s needs itself', name)
        elseif done[name] or (modules[name] == nil and rawget(_G, name) ~= nil) then
            return
        elseif modules[name] == nil then
            fail('bad-module', 'module %s needs module %s, which is neither given nor loaded', from, name)
        end
        done[name] = 'open'
        for _, needed in ipairs(modules[name].needs or {}) do
            visit(needed, name)
        end
        done[name] = true
        table.insert(order, name)
    end
    for _, name in ipairs(names) do
        visit(name)
    end
    return order
end

-- Load modules, {name -> source}: what ran under these names before is stopped and replaced.
function M.load(sources)
    local modules = {}
    for name, source in pairs(sources) do
        modules[name] = compile(name, source)
    end
    local order = in_order(modules)
    prepare()
    for _, name in ipairs(order) do
        check_schema(name, modules[name])
    end
    for at = #order, 1, -1 do
        local old = rawget(_G, order[at])
        if old ~= nil and old.stop ~= nil then
            old.stop()
        end
    end
    for _, name in ipairs(order) do
        local module = modules[name]
        migrate(name, module)
        if not box.info.ro then
            grant(name, module)
        end
        if module.start ~= nil then
            module.start(rawget(_G, name))
        end
        rawset(_G, name, module)
        M.loaded[name] = module.version
    end
    return M.versions()
end

-- Create users, {{name, password, role, ...}, ...}; a user that is there gets this password and these roles.
function M.users(users)
    for _, each in ipairs(users) do
        local name, password = each[1], each[2]
        if box.schema.user.exists(name) then
            box.schema.user.passwd(name, password)
        else
            box.schema.user.create(name, {password = password})
        end
        for at = 3, #each do
            box.schema.user.grant(name, 'aggregator_' .. each[at], nil, nil, {if_not_exists = true})
        end
    end
end

-- module -> version of all that is loaded.
function M.versions()
    return M.loaded
end

M.functions = {consumer = {'versions'}, producer = {'versions'}, operator = {'versions'}}

return M
