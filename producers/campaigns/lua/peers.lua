--- The servers of one shard, and how they tell each other what they know.
--
-- A server's lease is its last answer: after `dead_after` seconds without one the others act for it. Three
-- outcomes of a call are kept apart: it answered; it cannot have got the call (`refused`); nobody knows (`unknown`).

local clock = require('clock')
local fiber = require('fiber')
local log = require('log')
local net_box = require('net.box')
local uuid = require('uuid')

local M = {version = 1, needs = {'ledger', 'parts'}, migrations = {}}

--- The user in the peers' URIs needs one of these roles.
M.functions = {relay = {'pull', 'push'}, producer = {'pull', 'push'}}

--- Seconds: between two rounds, for a call, for a connection, and without an answer until a peer counts as dead.
M.options = {tick = 0.2, timeout = 1, connect_timeout = 0.5, dead_after = 2}
M.monotonic = clock.monotonic

M.me = nil
local ledger, parts
local order, peers = {}, {}
--- Names one life of this process: marks of another life mean nothing.
local boot = uuid.str()
local running = false
local listen_to_all
--- When this server last was on time. A gap means that it stood still and others may have acted for it.
local beat, fresh = 0, false
--- A condition as long as this server asks the others, because it stood still or has just begun.
local asking
--- Called with the ids of campaigns of which there is news; and once in each tick.
M.on_news = function() end
M.on_tick = function() end

-- ── who is there ──

local function use(list, me)
    local found, names = {}, {}
    for at, entry in ipairs(list) do
        local name, uri = entry[1] or entry.name, entry[2] or entry.uri
        names[at] = name
        if name ~= me then
            local known = peers[name]
            if known ~= nil and known.uri == uri then
                found[name] = known
            else
                -- marks in the news and in those of parts: what it was told, what it told
                found[name] = {name = name, uri = uri, seen = M.monotonic(), sent = 0, parts_sent = 0, pulled = 0,
                    parts_pulled = 0}
            end
        end
    end
    for name, peer in pairs(peers) do
        if found[name] ~= peer and peer.link then
            peer.link:close()
        end
    end
    table.sort(names)
    order, peers, M.me = names, found, me
    fresh = false
    if running then
        listen_to_all()
    end
end

--- Name the servers of the shard: {{name, uri}, ...}; `me` is this one's name. The ring is in the order of names.
function M.set(list, me)
    local before = box.space.peers:select()
    box.begin()
    for _, row in ipairs(before) do
        box.space.peers:delete(row.name)
    end
    for _, entry in ipairs(list) do
        box.space.peers:replace({entry[1] or entry.name, entry[2] or entry.uri, (entry[1] or entry.name) == me})
    end
    box.commit()
    use(list, me)
end

function M.alive(name)
    if name == M.me then
        return true
    end
    local peer = peers[name]
    return peer ~= nil and M.monotonic() - peer.seen <= M.options.dead_after
end

--- All other names in the order of the ring, from the one after `name` on.
function M.after(name)
    local at, found = 0, {}
    for i, each in ipairs(order) do
        if each <= name then
            at = i
        end
    end
    for i = 1, #order do
        local each = order[(at + i - 1) % #order + 1]
        if each ~= name then
            table.insert(found, each)
        end
    end
    return found
end

--- Who acts for a server: itself if it lives, else the first after it that does.
function M.deputy(name)
    if M.alive(name) then
        return name
    end
    for _, each in ipairs(M.after(name)) do
        if M.alive(each) then
            return each
        end
    end
    return M.me
end

function M.show()
    local found = {}
    for _, name in ipairs(order) do
        table.insert(found, {name = name, me = name == M.me, alive = M.alive(name)})
    end
    return found
end

-- ── calls ──

local function connect(peer)
    while peer.connecting do
        fiber.sleep(0.01)
    end
    local link = peer.link
    if link ~= nil and link.state == 'active' then
        return link
    elseif link ~= nil then
        link:close()
    end
    peer.connecting = true
    local ok, made = pcall(net_box.connect, peer.uri, {wait_connected = M.options.connect_timeout})
    peer.connecting = false
    if not ok then
        error(made, 0)
    end
    peer.link = made
    return made
end

--- Errors that are told before the function has begun.
local NOT_BEGUN = {
    [box.error.NO_SUCH_PROC] = true, [box.error.ACCESS_DENIED] = true, [box.error.LOADING] = true,
    [box.error.NO_SUCH_FUNCTION] = true,
}

--- Call a function of a peer: 'ok' and its answer, 'refused', or 'unknown'.
local function ask(peer, name, ...)
    local ok, link = pcall(connect, peer)
    if not ok or link.state ~= 'active' then
        return 'refused'
    end
    local arguments = {...}
    local called, answer = pcall(link.call, link, name, arguments, {timeout = M.options.timeout})
    if called then
        peer.seen = M.monotonic()
        return 'ok', answer
    end
    log.warn('campaigns: %s at %s: %s', name, peer.name, tostring(answer))
    if type(answer) ~= 'string' and NOT_BEGUN[answer.code] then
        return 'refused'
    end
    if peer.link == link then
        peer.link = nil
    end
    link:close()
    return 'unknown'
end

local function take_in(news)
    local touched = ledger.merge(news, M.me)
    if next(touched) ~= nil then
        M.on_news(touched)
    end
end

--- Everything behind two marks; of parts, which may be many, as much as is told at once.
local function news_since(since, parts_since, name)
    local news = ledger.news(since)
    news.boot, news.since, news.parts_since = boot, since, parts_since
    news.parts, news.parts_mark, news.more = parts.news(parts_since, name)
    return news
end

--- Another life of a peer: what it was told before means nothing.
local function met(peer, its_boot)
    peer.boot, peer.sent, peer.parts_sent = its_boot, 0, 0
end

--- Tell a peer everything new, and ask it to take a baton if one is given: what happens is in the answer's
-- `outcome`: 'taken', 'stale' (it knows a newer one, which this server now knows as well), 'told' without baton.
function M.tell(name, baton)
    local peer = peers[name]
    for _ = 1, 2 do
        local news = news_since(peer.sent, peer.parts_sent, name)
        local result, answer = ask(peer, 'peers.push', M.me, peer.boot, news, baton)
        if result ~= 'ok' then
            return result
        elseif answer.outcome ~= 'boot' then
            peer.sent = math.max(peer.sent, news.rev)
            peer.parts_sent = math.max(peer.parts_sent, news.parts_mark)
            if answer.news then
                take_in(answer.news)
            end
            return answer.outcome
        end
        met(peer, answer.boot)
    end
    return 'unknown'
end

--- Whether a peer was told everything up to these marks.
function M.knows(name, rev, parts_rev)
    local peer = peers[name]
    return peer ~= nil and peer.sent >= rev and peer.parts_sent >= parts_rev
end

--- When a peer last answered (monotonic seconds).
function M.seen(name)
    return peers[name] ~= nil and peers[name].seen or -math.huge
end

--- Tell all that live, side by side; returns how many heard it.
function M.tell_all()
    local waiting, heard, done = 0, 0, fiber.cond()
    for name in pairs(peers) do
        if M.alive(name) then
            waiting = waiting + 1
            fiber.create(function()
                local ok, outcome = pcall(M.tell, name)
                heard = heard + ((ok and outcome == 'told') and 1 or 0)
                waiting = waiting - 1
                done:signal()
            end)
        end
    end
    while waiting > 0 do
        done:wait()
    end
    return heard
end

local function pull(peer)
    local result, news
    repeat
        result, news = ask(peer, 'peers.pull', peer.boot, peer.pulled, peer.parts_pulled, M.me)
        if result ~= 'ok' then
            return
        elseif peer.boot ~= news.boot then
            met(peer, news.boot)
        end
        take_in(news)
        peer.pulled, peer.parts_pulled = news.rev, news.parts_mark or 0
    until not news.more
end

local function pull_safely(peer)
    local ok, err = pcall(pull, peer)
    if not ok then
        log.error('campaigns: news of %s: %s', peer.name, tostring(err))
    end
end

--- Ask everybody for news, side by side, and wait for all answers or time limits.
function M.round()
    local waiting, done = 0, fiber.cond()
    for _, peer in pairs(peers) do
        waiting = waiting + 1
        fiber.create(function()
            pull_safely(peer)
            waiting = waiting - 1
            done:signal()
        end)
    end
    while waiting > 0 do
        done:wait()
    end
end

--- Whether this server has heard the others since it began, or last stood still.
function M.is_fresh()
    return fresh and asking == nil and M.monotonic() - beat <= M.options.dead_after / 2
end

--- Ask the others first if this server stood still, or has just begun.
function M.ensure_fresh()
    while not M.is_fresh() do
        if asking ~= nil then
            asking:wait() -- for the answers, not only for the question
        else
            asking = fiber.cond()
            beat, fresh = M.monotonic(), true -- a second standstill, meanwhile, takes it away again
            local ok, err = pcall(M.round)
            asking:broadcast()
            asking = nil
            if not ok then
                fresh = false
                error(err, 0)
            end
        end
    end
end

-- ── called by peers ──

--- What changed here behind two marks; everything if they are of another life. who: the server that asks.
function M.pull(of_boot, since, parts_since, who)
    if of_boot ~= boot then
        since, parts_since = 0, 0
    end
    return news_since(since or 0, parts_since or 0, who)
end

--- What was pushed need not be pulled, if nothing is missing between the two.
local function note_pushed(peer, news)
    if news.boot ~= peer.boot or news.since == nil then
        return
    elseif news.since <= peer.pulled then
        peer.pulled = math.max(peer.pulled, news.rev)
    end
    if news.parts_since <= peer.parts_pulled then
        peer.parts_pulled = math.max(peer.parts_pulled, news.parts_mark)
    end
end

--- Take in news, and a baton {campaign, epoch, seq, last, bases}, unless a newer one is known here.
function M.push(from, to_boot, news, baton)
    if to_boot ~= boot then
        return {outcome = 'boot', boot = boot}
    end
    take_in(news)
    local peer = peers[from]
    if peer ~= nil then
        peer.seen = M.monotonic()
        note_pushed(peer, news)
    end
    if baton == nil then
        return {outcome = 'told'}
    end
    local taken = ledger.advance({
        campaign = baton.campaign, epoch = baton.epoch, seq = baton.seq, last = baton.last, bases = baton.bases,
        finished = false, holder = M.me,
    })
    if not taken then
        return {outcome = 'stale', news = M.pull(nil, 0)}
    end
    M.on_news({[baton.campaign] = true})
    return {outcome = 'taken'}
end

-- ── life ──

--- Notice that this server stood still.
local function watch_time(mine)
    while running == mine do
        local now = M.monotonic()
        if now - beat > M.options.dead_after / 2 then
            fresh = false
        end
        beat = now
        fiber.sleep(math.min(M.options.tick, M.options.dead_after / 10))
    end
end

--- One fiber for each peer: a silent one does not hold up the others.
local function listen(mine, peer)
    while running == mine and peers[peer.name] == peer do
        pull_safely(peer)
        fiber.sleep(M.options.tick)
    end
end

local function tick(mine)
    while running == mine do
        local ok, err = pcall(M.on_tick)
        if not ok then
            log.error('campaigns: %s', tostring(err))
        end
        fiber.sleep(M.options.tick)
    end
end

listen_to_all = function()
    for _, peer in pairs(peers) do
        if not peer.heard then
            peer.heard = true
            fiber.create(listen, running, peer):name('campaigns.peer', {truncate = true})
        end
    end
end

function M.start(old)
    ledger, parts = rawget(_G, 'ledger'), rawget(_G, 'parts')
    if old ~= nil then
        M.options, M.monotonic = old.options, old.monotonic
    end
    -- kept, so that a server knows whom to ask before it does anything after a restart
    local kept, me = {}, box.info.uuid
    for at, row in ipairs(box.space.peers:select()) do
        kept[at], me = {row.name, row.uri}, row.me and row.name or me
    end
    use(kept, me)
    running = {}
    fiber.create(watch_time, running):name('campaigns.time', {truncate = true})
    fiber.create(tick, running):name('campaigns.tick', {truncate = true})
    listen_to_all()
end

function M.stop()
    running = false
    for _, peer in pairs(peers) do
        if peer.link then
            peer.link:close()
        end
    end
end

return M
