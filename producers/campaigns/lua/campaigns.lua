--- Campaigns: made, started, paused and watched at any server of a shard. Global `campaigns`.

local digest = require('digest')
local json = require('json')

local M = {version = 1, needs = {'ledger', 'parts', 'peers', 'relay'}, migrations = {}}

M.functions = {
    producer = {'create', 'start', 'pause', 'resume', 'cancel', 'revoke', 'get', 'list', 'progress', 'forget'},
    operator = {'get', 'list', 'progress'},
}


local function fail(code, text, ...)
    box.error({type = code, reason = code .. ': ' .. text:format(...)})
end

local function map(value)
    return setmetatable(value or {}, {__serialize = 'map'})
end

local function needed(id)
    local campaign = box.space.campaigns:get(id)
    if campaign == nil then
        peers.ensure_fresh()
        campaign = box.space.campaigns:get(id)
    end
    if campaign == nil then
        fail('no-campaign', 'there is no campaign %s', id)
    end
    return campaign
end

--- A text that is the same for equal values, whatever the order of a map's keys.
local function canonical(value)
    if type(value) ~= 'table' then
        return json.encode(value)
    end
    local keys, parts = {}, {}
    for key in pairs(value) do
        table.insert(keys, key)
    end
    table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
    for _, key in ipairs(keys) do
        table.insert(parts, tostring(key) .. ':' .. canonical(value[key]))
    end
    return '{' .. table.concat(parts, ',') .. '}'
end

--- Create a campaign; the same one again is no error: {state=, new=}.
function M.create(id, spec)
    if type(id) ~= 'string' or id == '' then
        fail('bad-id', 'a campaign is named by a text that is not empty')
    elseif type(spec) ~= 'table' or type(spec.notifications) ~= 'table' then
        fail('bad-spec', 'a campaign needs notifications')
    end
    local mark = digest.sha1_hex(canonical(spec))
    peers.ensure_fresh()
    local known = box.space.campaigns:get(id)
    if known ~= nil then
        if known.digest ~= mark then
            fail('conflict', 'there is another campaign %s', id)
        end
        return {state = known.state, new = false}
    end
    ledger.put_campaign({
        id = id, version = ledger.above(nil, peers.me), state = 'created', digest = mark, spec = map(spec),
        zones = map(), created = relay.clock(), started = 0, ended = 0, vclock = map(),
    })
    peers.tell_all()
    return {state = 'created', new = true}
end

local function vclock()
    local found = map()
    for server, lsn in pairs(box.info.vclock) do
        if server ~= 0 then -- 0 counts what is local
            found[tostring(server)] = lsn
        end
    end
    return found
end

--- Start it; one that runs already is left alone: {state=, new=}. zones: tz -> {{utc_from, offset}, ...}.
function M.start(id, zones)
    if type(id) ~= 'string' then
        return nil -- the loader starts modules by the same name; there is nothing to do
    end
    peers.round()
    local campaign = needed(id)
    if campaign.state == 'running' or campaign.state == 'done' then
        return {state = campaign.state, new = false}
    elseif campaign.state ~= 'created' then
        fail('state', 'campaign %s is %s: it cannot be started', id, campaign.state)
    end
    local epoch = ledger.above(nil, peers.me)
    box.begin()
    ledger.advance({
        campaign = id, epoch = epoch, seq = 1, last = box.NULL, holder = peers.me, finished = false,
        bases = {{epoch, box.NULL}},
    })
    local row = campaign:tomap({names_only = true})
    row.state, row.version = 'running', ledger.above(row.version, peers.me)
    row.zones, row.started, row.vclock = map(zones), relay.clock(), vclock()
    ledger.put_campaign(row)
    box.commit()
    peers.tell_all()
    relay.follow(id)
    return {state = 'running', new = true}
end

local ALLOWED = {
    paused = {running = true, paused = true},
    running = {paused = true, running = true},
    cancelled = {created = true, running = true, paused = true, cancelled = true},
    revoked = {created = true, running = true, paused = true, cancelled = true, done = true, revoked = true},
}

local function act(id, word, state)
    local campaign = needed(id)
    if not ALLOWED[state][campaign.state] then
        fail('state', 'campaign %s is %s: there is nothing to %s', id, campaign.state, word)
    end
    if campaign.state ~= state then
        relay.set_state(id, state)
        peers.tell_all()
    end
    return {state = box.space.campaigns:get(id).state}
end

--- Hand nothing out until it is resumed; what is taken is sent.
function M.pause(id) return act(id, 'pause', 'paused') end
function M.resume(id) return act(id, 'resume', 'running') end
--- Walk no further; what is queued is sent.
function M.cancel(id) return act(id, 'cancel', 'cancelled') end
--- Walk no further and drop what is queued, also of a campaign whose walk is done.
function M.revoke(id) return act(id, 'revoke', 'revoked') end

local function shown(campaign)
    return {id = campaign.id, state = campaign.state, spec = campaign.spec, created = campaign.created,
        started = campaign.started, ended = campaign.ended}
end

function M.get(id)
    local campaign = box.space.campaigns:get(id)
    return campaign and shown(campaign) or nil
end

function M.list()
    local found = {}
    for _, campaign in box.space.campaigns:pairs() do
        table.insert(found, shown(campaign))
    end
    return found
end

--- Claims by state, how many of them are this server's, and the users of all that were not withdrawn.
local function claims_of(id)
    local found = {open = 0, done = 0, withdrawn = 0, mine = 0, rows = 0}
    for _, claim in box.space.claims:pairs({id}) do
        found[claim.state] = found[claim.state] + 1
        if claim.owner == peers.me and claim.state == 'open' then
            found.mine = found.mine + 1
        end
        if claim.state ~= 'withdrawn' then
            found.rows = found.rows + claim.rows
        end
    end
    return found
end

--- How far it is, as this server sees it.
--
-- walked, matched, queued, batches, skipped, platforms, windows: of this server. claims: of all, as known here;
-- `rows` of them over `users` is the share of the walk that is done. counts: verdicts by tube and reason.
function M.progress(id)
    local campaign = needed(id)
    local walk, baton = box.space.walks:get(id), box.space.batons:get(id)
    local found = batches.sum(walk and walk.counts, batches.counts())
    found.server, found.state, found.peers = peers.me, campaign.state, peers.show()
    found.started, found.ended = campaign.started, campaign.ended
    found.users, found.claims = box.space.users:len(), claims_of(id)
    if baton ~= nil then
        found.baton = {held = baton.holder == peers.me and not baton.finished, seq = baton.seq, epoch = baton.epoch,
            holder = baton.holder, finished = baton.finished, last = baton.last}
    end
    found.counts, found.pending = tubes.counts(id), tubes.pending(id)
    for _, reasons in pairs(found.counts) do
        reasons.deleted = nil -- tasks of claims that another server took over
    end
    return found
end

local function delete_all(space, index, key, fields)
    for _, row in ipairs(box.space[space].index[index]:select(key)) do
        box.space[space]:delete(fields(row))
    end
end

--- Forget an ended campaign here: its record, claims and counters. To be called at all servers.
function M.forget(id)
    local campaign = box.space.campaigns:get(id)
    if campaign == nil then
        return false
    elseif not ledger.ended(campaign.state) then
        fail('state', 'campaign %s is %s: it has to end first', id, campaign.state)
    end
    tubes.forget(id)
    box.begin()
    delete_all('claims', 'pk', {id}, function(row) return {row.campaign, row.seq, row.epoch} end)
    delete_all('claim_tasks', 'claim', {id}, function(row) return {row.tube, row.id} end)
    parts.forget(id)
    box.space.batons:delete(id)
    box.space.walks:delete(id)
    box.space.campaigns:delete(id)
    box.commit()
    return true
end

--- Name the servers of the shard, {{name, uri}, ...} and this one; without arguments: who is there.
function M.peers(list, me)
    if list ~= nil then
        peers.set(list, me)
    end
    return peers.show()
end

return M
