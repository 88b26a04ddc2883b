--- An ack is answered when another server knows of it: what a worker has seen acked is sent by nobody else, though
-- this server may die the moment after.
--
-- The one that is told is the next that lives: who takes over asks all others first. It is one call for all acks
-- that wait. A server that does not answer in time is passed over until it does.

local fiber = require('fiber')

local M = {version = 1, needs = {'tubes', 'ledger', 'peers'}, migrations = {}}

--- Seconds that an ack waits for one server.
M.options = {wait = 0.25}

local ledger, peers
--- name -> {cond, telling, late = since when it is passed over}
local witnesses = {}

local function witness_of(name)
    local known = witnesses[name]
    if known == nil then
        known = {cond = fiber.cond(), telling = false, late = nil}
        witnesses[name] = known
    end
    return known
end

local function usable(name, witness)
    if witness.late ~= nil and peers.seen(name) > witness.late then
        witness.late = nil
    end
    return peers.alive(name) and witness.late == nil
end

--- Tell until it knows all that is wanted by now.
local function tell(name, witness)
    witness.telling = true
    repeat
        local ok, outcome = pcall(peers.tell, name)
        if not ok or outcome ~= 'told' then
            witness.late = peers.monotonic()
        end
        witness.cond:broadcast()
    until witness.late ~= nil or peers.knows(name, unpack(ledger.settled))
    witness.telling = false
end

--- Wait until a server knows everything up to two marks; false if it does not come to know it in time.
local function told(name, witness, rev, parts_rev)
    local deadline = fiber.clock() + M.options.wait
    while not peers.knows(name, rev, parts_rev) do
        if not witness.telling then
            fiber.create(tell, name, witness)
        end
        local left = deadline - fiber.clock()
        if witness.late ~= nil then
            return false
        elseif left <= 0 then
            witness.late = peers.monotonic()
            return false
        end
        witness.cond:wait(left)
    end
    return true
end

--- Have another server know of all settlements so far, if one lives.
function M.confirm()
    local rev, parts_rev = unpack(ledger.settled)
    for _, name in ipairs(peers.after(peers.me)) do
        local witness = witness_of(name)
        if usable(name, witness) and told(name, witness, rev, parts_rev) then
            return
        end
    end
end

--- Whether a campaign's tasks may be others' by now: this server stood still, and has not asked yet.
function M.closed(group)
    return not peers.is_fresh() and box.space.campaigns:get(group) ~= nil
end

function M.start(old)
    ledger, peers = rawget(_G, 'ledger'), rawget(_G, 'peers')
    M.options = old and old.options or M.options
    tubes.stand({closed = M.closed, settled = M.confirm})
end

return M
