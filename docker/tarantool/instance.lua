#!/usr/bin/env tarantool
-- A Tarantool server with the Lua modules of this project in it, set up by environment variables alone:
--
--   INSTANCE_LISTEN             host:port (127.0.0.1:3301)
--   INSTANCE_DIR                folder of its data (.)
--   INSTANCE_MODULES            folders of *.lua, separated by ':' (the folder `modules` beside this file)
--   INSTANCE_MEMORY             MiB for tuples (256)
--   INSTANCE_TUPLE_MEMORY       MiB that one task may have at most (16)
--   INSTANCE_WAL                write, fsync or none (write)
--   INSTANCE_CHECKPOINT         seconds between snapshots, 0 for none (3600)
--   INSTANCE_REPLICATION        user:password@host:port of the other servers, separated by ','
--   INSTANCE_READ_ONLY          yes: replicated spaces are written elsewhere; tubes are the server's own
--   INSTANCE_PATIENCE           seconds to wait for the others at the first start (30)
--   INSTANCE_LOG                a file, else stderr
--   INSTANCE_READY              a file that is written when all modules run
--   INSTANCE_{ADMIN,CONSUMER,PRODUCER,OPERATOR,REPLICATION}_PASSWORD, or …_PASSWORD_FILE
--                               users admin, consumer, producer, operator, replicator; without: no such user
--
-- It takes connections only when its modules run, so no client meets it half ready.
local fio = require('fio')
local log = require('log')

local function setting(name, default)
    local value = os.getenv('INSTANCE_' .. name)
    return value ~= nil and value ~= '' and value or default
end

local function read(path)
    local file, problem = io.open(path, 'r')
    if file == nil then
        error(('cannot read %s'):format(problem), 0)
    end
    local content = file:read('*a')
    file:close()
    return content
end

local function password(user)
    local path = setting(user .. '_PASSWORD_FILE')
    return path and (read(path):gsub('%s+$', '')) or setting(user .. '_PASSWORD')
end

local function split(text, by)
    local found = {}
    for each in text:gmatch('[^' .. by .. ']+') do
        table.insert(found, each)
    end
    return found
end

local here = fio.dirname(fio.abspath(arg[0]))
local folder = setting('DIR', '.')
local read_only = setting('READ_ONLY') == 'yes'
local others = split(setting('REPLICATION', ''), ',')
fio.mktree(folder)
local first_start = #fio.glob(fio.pathjoin(folder, '*.snap')) == 0

local cfg = {
    work_dir = folder,
    memtx_memory = tonumber(setting('MEMORY', 256)) * 2 ^ 20,
    memtx_max_tuple_size = tonumber(setting('TUPLE_MEMORY', 16)) * 2 ^ 20,
    wal_mode = setting('WAL', 'write'),
    checkpoint_interval = tonumber(setting('CHECKPOINT', 3600)),
    checkpoint_count = 2,
    net_msg_max = 1024,
    readahead = 2 ^ 20,
    log = setting('LOG'),
    read_only = read_only,
    feedback_enabled = false,
}
if #others > 0 then
    cfg.replication = others
    cfg.replication_connect_timeout = tonumber(setting('PATIENCE', 30))
    if rawget(_G, '_TARANTOOL') >= '3' or rawget(_G, '_TARANTOOL'):match('^2%.1[1-9]') then
        cfg.bootstrap_strategy = 'legacy'
    end
    if not first_start then
        -- others may be dead: this one serves all the same, and follows them when they come
        cfg.replication_connect_quorum = 0
    end
end
box.cfg(cfg)

local sources = {}
for _, place in ipairs(split(setting('MODULES', fio.pathjoin(here, 'modules')), ':')) do
    for _, path in ipairs(fio.glob(fio.pathjoin(place, '*.lua'))) do
        sources[fio.basename(path, '.lua')] = read(path)
    end
end
if sources.aggregator == nil then
    error('INSTANCE_MODULES names no folder with aggregator.lua', 0)
end
local loader = assert(loadstring(sources.aggregator, '=aggregator.lua'))()
rawset(_G, 'aggregator', loader)
sources.aggregator = nil
loader.load(sources)

if not box.info.ro then
    for _, role in ipairs({'consumer', 'producer', 'operator'}) do
        local secret = password(role:upper())
        if secret then
            loader.users({{role, secret, role}})
        end
    end
    if password('ADMIN') then
        box.schema.user.passwd('admin', password('ADMIN'))
    end
    if password('REPLICATION') then
        -- `replication` itself is the name of a role of Tarantool's
        box.schema.user.create('replicator', {if_not_exists = true})
        box.schema.user.passwd('replicator', password('REPLICATION'))
        box.schema.user.grant('replicator', 'replication', nil, nil, {if_not_exists = true})
    end
end

box.cfg({listen = setting('LISTEN', '127.0.0.1:3301')})
local ready = setting('READY')
if ready then
    local file = assert(io.open(ready, 'w'))
    file:write(setting('LISTEN', '127.0.0.1:3301'))
    file:close()
end
log.info('instance: ready')
