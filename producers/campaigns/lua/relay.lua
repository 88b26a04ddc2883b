--- The relay: servers of a shard walk a campaign's users in turns, by a baton. docs/fan-out.md tells the protocol.

local clock = require('clock')
local fiber = require('fiber')
local log = require('log')

local M = {version = 1, needs = {'tubes', 'batches', 'ledger', 'parts', 'peers', 'users', 'witness'}, migrations = {}}

--- high_water: ready tasks of one campaign above which a server passes the baton without claiming;
-- wait: seconds to wait for them to become fewer, first. patience: see caught_up. batch: users, where the campaign
-- says nothing; slice and step: users read and skipped between two yields, each below a millisecond.
M.options = {high_water = 200, wait = 0.2, patience = 10, batch = 10000, slice = 250, step = 2000}
M.clock = clock.time
--- Called at named points of the protocol; tests stop or kill the server there.
M.probe = function() end

local ledger, parts, peers, batches
local walkers = {}
--- campaign -> since when this server lacks users that it should have
local behind = {}
local stopped = false

-- ── what there is to do ──

local function campaign_of(id)
    return box.space.campaigns:get(id)
end

local function same(baton)
    local known = box.space.batons:get(baton.campaign)
    return known ~= nil and known.epoch == baton.epoch and known.seq == baton.seq and known.holder == peers.me
end

local function is_running(id)
    local campaign = campaign_of(id)
    return not stopped and campaign ~= nil and campaign.state == 'running'
end

--- The id of the last of up to `limit` users behind `from`, and how many these are. Yields between steps.
local function boundary(from, limit)
    local index, found, last = box.space.users.index.pk, 0, from
    while found < limit do
        local step = math.min(M.options.step, limit - found)
        local key = last ~= nil and {last} or {}
        local iterator = last ~= nil and 'GT' or 'ALL'
        local row = index:select(key, {iterator = iterator, offset = step - 1, limit = 1})[1]
        if row == nil then
            local rest = index:count(key, {iterator = iterator})
            return rest > 0 and index:max()[1] or last, found + rest
        end
        found, last = found + step, row[1]
        fiber.yield()
    end
    return last, found
end

--- Make tasks of a claim's users, but for those who have had their push. Yields between slices.
local function split(campaign, claim)
    local batch, size = batches.new(campaign, M.clock(), parts.sent(claim)), M.options.slice
    local last, to = claim.from, claim.to
    while true do
        local rows = users.after(last, size)
        local count = #rows
        while count > 0 and ledger.before(to, rows[count][1]) do
            count = count - 1
        end
        batches.add(batch, rows, 1, count)
        if count < size then
            return batches.finish(batch)
        end
        last = rows[count][1]
        fiber.yield()
    end
end

--- Whether as much of the users is here as was at the server where the campaign was started. What is not here
-- after `patience` seconds died with its writer.
local function caught_up(campaign)
    local mine = box.info.vclock
    for server, lsn in pairs(campaign.vclock) do
        if (mine[tonumber(server)] or 0) < lsn then
            local since = behind[campaign.id] or peers.monotonic()
            behind[campaign.id] = since
            return peers.monotonic() - since > M.options.patience
        end
    end
    behind[campaign.id] = nil
    return true
end

local function ready_tasks(id)
    local ready = 0
    for _, tube in pairs(tubes.pending(id)) do
        ready = ready + tube.ready
    end
    return ready
end

-- ── claims ──

--- Put a claim's tasks into the tubes: with all that belongs to it in one transaction, so after a crash either
-- everything is queued or nothing.
local function queue(campaign, claim, tasks, counts)
    local id = campaign.id
    box.begin()
    local ok, err = pcall(function()
        local known = box.space.claims:get({claim.campaign, claim.seq, claim.epoch})
        if known == nil or known.term ~= claim.term or known.state ~= 'open' or known.queued then
            return
        end
        local some = false
        for tube, list in pairs(tasks) do
            if not campaign.spec.dry_run then
                for at, task in ipairs(tubes.put_many(tube, list)) do
                    box.space.claim_tasks:insert({tube, task, id, claim.seq, claim.epoch})
                    parts.queued(known, task, list[at][3])
                    some = true
                end
            end
        end
        ledger.change_claim(claim, some and {queued = true} or {state = 'done'})
        local stored = box.space.walks:get(id)
        box.space.walks:replace({id, batches.sum(stored and stored.counts, counts)})
    end)
    if not ok then
        box.rollback()
        error(err, 0)
    end
    box.commit()
end

--- Do what a claim of this server promises, unless it is no longer its own.
local function fulfil(claim)
    peers.ensure_fresh()
    local campaign = campaign_of(claim.campaign)
    local known = box.space.claims:get({claim.campaign, claim.seq, claim.epoch})
    if known == nil or known.term ~= claim.term or known.state ~= 'open' or known.queued then
        return
    end
    local baton = box.space.batons:get(claim.campaign)
    if ledger.ended(campaign.state) or baton ~= nil and ledger.covered(known, baton.bases) then
        return ledger.withdraw(known)
    end
    local tasks, counts = split(campaign, known)
    M.probe('split', claim.seq)
    queue(campaign, known, tasks, counts)
end

--- Claims of this server whose tasks are not queued: left by a crash, or taken over.
local function fulfil_left(id)
    local found = false
    for _, claim in ipairs(ledger.open_claims(id, peers.me)) do
        if not claim.queued and is_running(id) then
            fulfil(claim)
            found = true
        end
    end
    return found
end

-- ── the baton ──

local function bases_with(bases, epoch, last)
    local found = {}
    for at, base in ipairs(bases) do
        found[at] = base
    end
    table.insert(found, {epoch, last == nil and box.NULL or last})
    return found
end

--- Hand the baton to the next server that takes it; keep it if there is none. False: there is a newer one.
local function pass(baton, last)
    local sent = {
        campaign = baton.campaign, epoch = baton.epoch, seq = baton.seq + 1, bases = baton.bases, finished = false,
        last = last == nil and box.NULL or last,
    }
    for _, name in ipairs(peers.after(peers.me)) do
        if peers.alive(name) then
            local outcome = peers.tell(name, sent)
            if outcome == 'taken' then
                sent.holder = name
                ledger.advance(sent)
                return true
            elseif outcome == 'stale' then
                return false
            elseif outcome == 'unknown' then
                -- it may have the baton: the next one gets a newer, which begins where that one would
                sent.epoch = ledger.above(sent.epoch, peers.me)
                sent.bases = bases_with(sent.bases, sent.epoch, last)
            end
        end
    end
    sent.holder = peers.me
    return ledger.advance(sent)
end

local function finish(baton)
    ledger.advance({
        campaign = baton.campaign, epoch = baton.epoch, seq = baton.seq + 1, last = baton.last,
        bases = baton.bases, holder = peers.me, finished = true,
    })
end

--- Wait for room in the tubes; false if there is none.
local function room(id)
    local deadline = peers.monotonic() + M.options.wait
    while ready_tasks(id) >= M.options.high_water do
        if peers.monotonic() >= deadline then
            return false
        end
        fiber.sleep(M.options.wait / 10)
    end
    return true
end

--- One turn with the baton: claim, pass on, then fulfil.
local function turn(campaign, baton)
    local id = campaign.id
    if campaign.spec.expires ~= nil and M.clock() >= campaign.spec.expires then
        return finish(baton)
    end
    local behind_others = not caught_up(campaign)
    if behind_others then
        fiber.sleep(M.options.wait / 10)
    end
    if behind_others or not room(id) then
        if is_running(id) and same(baton) and #peers.after(peers.me) > 0 then
            pass(baton, baton.last)
        end
        return
    end
    local to, rows = boundary(baton.last, campaign.spec.batch or M.options.batch)
    peers.ensure_fresh()
    if not is_running(id) or not same(baton) then
        return
    elseif rows == 0 then
        return finish(baton)
    end
    local claim = {
        campaign = id, seq = baton.seq, epoch = baton.epoch, from = baton.last, to = to, rows = rows,
        owner = peers.me, term = ledger.above(nil, peers.me), state = 'open', queued = false,
    }
    M.probe('claim', baton.seq)
    -- a claim of this turn was left by a crash: it holds, with its own end
    local known = box.space.claims:get({id, baton.seq, baton.epoch})
    if known ~= nil then
        pass(baton, known.to)
        return
    end
    ledger.put_claim(claim)
    M.probe('before pass', baton.seq)
    local passed = pass(baton, claim.to)
    M.probe(passed and 'passed' or 'stale', baton.seq)
    fulfil(claim)
end

-- ── for those that died ──

--- Go on for a holder that is dead.
local function regenerate(id)
    local baton = box.space.batons:get(id)
    if baton == nil or baton.finished or peers.deputy(baton.holder) ~= peers.me or baton.holder == peers.me then
        return
    end
    peers.round()
    baton = box.space.batons:get(id)
    if not baton.finished and baton.holder ~= peers.me and peers.deputy(baton.holder) == peers.me and is_running(id) then
        local epoch = ledger.above(baton.epoch, peers.me)
        log.warn('campaigns: %s: %s is dead with the baton %d; it goes on here', id, baton.holder, baton.seq)
        ledger.advance({
            campaign = id, epoch = epoch, seq = baton.seq + 1, last = baton.last, holder = peers.me,
            finished = false, bases = bases_with(baton.bases, epoch, baton.last),
        })
    end
end

--- Take over what dead servers have claimed and not done.
local function take_over(id)
    local asked, taken = false, 0
    for _, claim in ipairs(ledger.open_claims(id)) do
        if claim.owner ~= peers.me and peers.deputy(claim.owner) == peers.me then
            if not asked then
                peers.round()
                asked = true
            end
            local baton = box.space.batons:get(id)
            if peers.deputy(claim.owner) ~= peers.me then
                break
            elseif baton ~= nil and ledger.covered(claim, baton.bases) then
                ledger.withdraw(claim)
            elseif ledger.change_claim(claim, {
                owner = peers.me, term = ledger.above(claim.term, peers.me), queued = false,
            }) then
                taken = taken + 1
            end
        end
    end
    if taken > 0 then
        log.warn('campaigns: %s: took over %d claims', id, taken)
    end
end

--- The campaign is done when its walk is and no claim is open.
local function conclude(id)
    local baton = box.space.batons:get(id)
    if baton == nil or not baton.finished or peers.deputy(baton.holder) ~= peers.me
        or #ledger.open_claims(id) > 0 then
        return
    end
    peers.round()
    if #ledger.open_claims(id) == 0 and is_running(id) then
        M.set_state(id, 'done')
    end
end

-- ── states ──

local GROUP = {running = 'running', paused = 'paused', cancelled = 'running', revoked = 'dropped', done = 'running',
    created = 'running'}

--- Make this server's tubes and walker follow the campaign's state.
function M.follow(id)
    local campaign = campaign_of(id)
    if campaign == nil or campaign.state == 'created' then
        return
    end
    local state, rate = GROUP[campaign.state], campaign.spec.rate or 0
    if not peers.is_fresh() and not ledger.ended(campaign.state) then
        state = 'paused' -- until the others were asked: what they took over must not be taken here
    end
    local known = tubes.group(id)
    if known.state ~= state or known.rate ~= rate then
        tubes.group(id, {state = state, rate = rate})
    end
    if ledger.ended(campaign.state) then
        for _, claim in ipairs(ledger.open_claims(id, peers.me)) do
            -- done: whatever is still queued here, others have sent it
            if campaign.state == 'done' or not claim.queued then
                ledger.withdraw(claim)
            end
        end
    end
    local walker = walkers[id]
    if campaign.state == 'running' and walker == nil then
        M.walk(id)
    elseif walker ~= nil then
        walker.cond:signal()
    end
end

local function follow_all()
    for _, campaign in box.space.campaigns:pairs() do
        local ok, err = pcall(M.follow, campaign.id)
        if not ok then
            log.error('campaigns: %s: %s', campaign.id, tostring(err))
        end
    end
end

--- Give a campaign a new state; nil if it has ended, but what has ended can be revoked. The others hear of it with the next news.
function M.set_state(id, state, more)
    local row = campaign_of(id):tomap({names_only = true})
    if ledger.ended(row.state) and (state ~= 'revoked' or row.state == 'revoked') then
        return nil
    end
    row.state, row.version = state, ledger.above(row.version, peers.me)
    for key, value in pairs(more or {}) do
        row[key] = value
    end
    if ledger.ended(state) then
        row.ended, row.zones = M.clock(), setmetatable({}, {__serialize = 'map'})
    end
    ledger.put_campaign(row)
    M.follow(id)
    return row
end

-- ── life ──

local function step(id)
    if not peers.is_fresh() then
        peers.ensure_fresh()
        follow_all()
    end
    if fulfil_left(id) then
        return true
    end
    local campaign, baton = campaign_of(id), box.space.batons:get(id)
    if baton == nil or baton.holder ~= peers.me or baton.finished then
        return false
    end
    turn(campaign, baton)
    return true
end

--- Walk a campaign in a fiber of its own as long as it runs.
function M.walk(id)
    local walker = {cond = fiber.cond()}
    walkers[id] = walker
    fiber.create(function()
        while is_running(id) do
            local ok, busy = pcall(step, id)
            if not ok then
                log.error('campaigns: %s: %s', id, tostring(busy))
                fiber.sleep(M.options.wait)
            elseif busy then
                fiber.yield()
            else
                walker.cond:wait(1)
            end
        end
        walkers[id] = nil
    end):name('campaigns.walk', {truncate = true})
end

local function on_news(touched)
    for id in pairs(touched) do
        M.follow(id)
    end
end

local function on_tick()
    if stopped then
        return
    end
    if not peers.is_fresh() then
        peers.ensure_fresh()
    end
    follow_all()
    for _, campaign in box.space.campaigns:pairs() do
        if campaign.state == 'running' then
            regenerate(campaign.id)
            take_over(campaign.id)
            conclude(campaign.id)
        end
    end
    follow_all()
end

function M.start(old)
    ledger, parts = rawget(_G, 'ledger'), rawget(_G, 'parts')
    peers, batches = rawget(_G, 'peers'), rawget(_G, 'batches')
    if old ~= nil then
        M.options, M.clock, M.probe = old.options, old.clock, old.probe
    end
    tubes.create('apns')
    tubes.create('fcm')
    tubes.on_done(ledger.task_done, {name = 'campaigns', data = false, part = ledger.task_shortened})
    follow_all()
    peers.on_news, peers.on_tick = on_news, on_tick
end

function M.stop()
    stopped = true
    for _, walker in pairs(walkers) do
        walker.cond:signal()
    end
end

return M
