--- What a server knows of campaigns, batons and claims, and how it takes in what others know.
--
-- All three spaces are local to each server. Every row has `rev`, a number that grows with each change on this
-- server: what is above a peer's mark is news to it. Rows of two servers are merged by rules that do not depend
-- on the order in which news arrive:
--   campaign   an end beats what goes on; then the higher version
--   baton      the higher (epoch, seq)
--   claim      `done` stays done, whatever comes late; then the higher term; then `withdrawn`
-- Epochs, versions and terms are strings "00000012.server": no two servers make the same.

local M = {version = 1, needs = {'parts'}}

local ENDED = {done = 1, cancelled = 2, revoked = 3}

M.migrations = {
    function()
        local function space(name, format, indexes)
            local made = box.schema.space.create(name, {is_local = true, if_not_exists = true, format = format})
            for _, index in ipairs(indexes) do
                made:create_index(index[1], {parts = index[2], unique = index[3] ~= false, if_not_exists = true})
            end
        end
        space('campaigns', {
            {'id', 'string'}, {'rev', 'unsigned'}, {'version', 'string'}, {'state', 'string'},
            {'digest', 'string'}, {'spec', 'map'}, {'zones', 'map'}, {'created', 'number'},
            {'started', 'number'}, {'ended', 'number'}, {'vclock', 'map'},
        }, {{'pk', {'id'}}, {'rev', {'rev'}}})
        space('batons', {
            {'campaign', 'string'}, {'rev', 'unsigned'}, {'epoch', 'string'}, {'seq', 'unsigned'},
            {name = 'last', type = 'scalar', is_nullable = true}, {'holder', 'string'}, {'finished', 'boolean'},
            {'bases', 'array'}, -- {epoch, id behind which it began}, oldest first
        }, {{'pk', {'campaign'}}, {'rev', {'rev'}}})
        space('claims', {
            {'campaign', 'string'}, {'seq', 'unsigned'}, {'epoch', 'string'}, {'rev', 'unsigned'},
            {name = 'from', type = 'scalar', is_nullable = true}, {'to', 'scalar'}, {'rows', 'unsigned'},
            {'owner', 'string'}, {'term', 'string'}, {'state', 'string'},
            {'queued', 'boolean'}, -- its tasks are in this server's tubes
        }, {
            {'pk', {'campaign', 'seq', 'epoch'}}, {'rev', {'rev'}},
            {'state', {'campaign', 'state', 'owner', 'seq', 'epoch'}},
        })
        -- tasks of this server's claims that are not done
        space('claim_tasks', {
            {'tube', 'string'}, {'id', 'unsigned'}, {'campaign', 'string'}, {'seq', 'unsigned'}, {'epoch', 'string'},
        }, {{'pk', {'tube', 'id'}}, {'claim', {'campaign', 'seq', 'epoch', 'tube', 'id'}}})
        space('peers', {{'name', 'string'}, {'uri', 'string'}, {'me', 'boolean'}}, {{'pk', {'name'}}})
        space('walks', {{'campaign', 'string'}, {'counts', 'map'}}, {{'pk', {'campaign'}}})
    end,
}

local rev = 0
local parts
--- Marks of the last settlement of a claim's task, in the news and in those of parts.
M.settled = {0, 0}

local function next_rev()
    rev = rev + 1
    return rev
end

function M.start()
    rev, parts = 0, rawget(_G, 'parts')
    for _, name in ipairs({'campaigns', 'batons', 'claims'}) do
        local last = box.space[name].index.rev:max()
        rev = math.max(rev, last and last.rev or 0)
    end
end

-- ── epochs and ids ──

--- An epoch, version or term above `mark`, of this server.
function M.above(mark, me)
    return ('%08d.%s'):format((tonumber((mark or ''):match('^%d+')) or 0) + 1, me)
end

--- Whether id a stands before id b in the index; nil stands before all, numbers before strings.
function M.before(a, b)
    if a == nil or b == nil then
        return a == nil and b ~= nil
    elseif type(a) == 'string' or type(b) == 'string' then
        return type(a) ~= 'string' and type(b) == 'string' or type(a) == type(b) and a < b
    end
    return a < b
end

--- Whether a later epoch walks over this claim's users anyway: it began before them.
function M.covered(claim, bases)
    for _, base in ipairs(bases) do
        if base[1] > claim.epoch and not M.before(claim.from, base[2]) then
            return true
        end
    end
    return false
end

function M.ended(state)
    return ENDED[state] ~= nil
end

-- ── rows ──

local function put(space, row)
    row.rev = next_rev()
    return box.space[space]:replace(box.space[space]:frommap(row))
end

function M.put_campaign(row)
    if M.ended(row.state) then
        parts.forget(row.id) -- nobody takes over any more
    end
    return put('campaigns', row)
end

function M.put_claim(row)
    if row.state ~= 'open' then
        parts.drop(row)
    end
    return put('claims', row)
end

--- Write a baton unless a newer one is known: the only way to change it, so nothing that a fiber remembers from
--- before a yield overwrites what came in the meantime.
function M.advance(row)
    local known = box.space.batons:get(row.campaign)
    if known ~= nil and not (row.epoch > known.epoch or row.epoch == known.epoch and row.seq > known.seq) then
        return false
    end
    put('batons', row)
    return true
end

--- Change a claim if it is still of this term and open: nil if not.
function M.change_claim(claim, changes)
    local known = box.space.claims:get({claim.campaign, claim.seq, claim.epoch})
    if known == nil or known.term ~= claim.term or known.state ~= 'open' then
        return nil
    end
    local row = known:tomap({names_only = true})
    for name, value in pairs(changes) do
        row[name] = value
    end
    return M.put_claim(row)
end

--- All claims of a campaign that are not done; of one owner if it is given.
function M.open_claims(campaign, owner)
    return box.space.claims.index.state:select({campaign, 'open', owner})
end

--- Delete this server's tasks of a claim that is another's, or covered; those that are taken come to their end.
function M.drop_tasks(claim)
    for _, task in ipairs(box.space.claim_tasks.index.claim:select({claim.campaign, claim.seq, claim.epoch})) do
        box.space.claim_tasks:delete({task.tube, task.id})
        local state = tubes.peek(task.tube, task.id)
        if state ~= nil and state.state ~= 'taken' then
            tubes.delete(task.tube, task.id)
        end
    end
    parts.drop(claim, true)
end

--- End a claim without its tasks having been sent here: another covers it.
function M.withdraw(claim)
    if M.change_claim(claim, {state = 'withdrawn', queued = false}) then
        M.drop_tasks(claim)
    end
end

local function claim_of(task)
    local claim = task ~= nil and box.space.claims:get({task.campaign, task.seq, task.epoch}) or nil
    return claim ~= nil and claim.state == 'open' and claim or nil
end

--- The hook of tubes: a task is done or buried; its claim is done with the last one.
function M.task_done(tube, id)
    local task = box.space.claim_tasks:delete({tube, id})
    local claim = claim_of(task)
    if claim == nil then
        return
    elseif #box.space.claim_tasks.index.claim:select({task.campaign, task.seq, task.epoch}, {limit = 1}) > 0 then
        parts.done(claim, id)
    else
        M.change_claim(claim, {state = 'done'})
    end
    M.settled = {rev, parts.mark()}
end

--- The same, where a task goes on with a part of its recipients.
function M.task_shortened(tube, id, data)
    local claim = claim_of(box.space.claim_tasks:get({tube, id}))
    if claim ~= nil and type(data) == 'table' and type(data.recipients) == 'table' then
        parts.shortened(claim, id, data.recipients)
        M.settled = {rev, parts.mark()}
    end
end

-- ── news ──

--- Everything that changed here behind the mark `since`: one consistent moment.
function M.news(since)
    local found = {rev = rev}
    for _, name in ipairs({'campaigns', 'batons', 'claims'}) do
        local rows = {}
        for _, row in box.space[name].index.rev:pairs({since}, {iterator = 'GT'}) do
            table.insert(rows, row)
        end
        found[name] = rows
    end
    return found
end

local function beats(a, b)
    local x, y = ENDED[a.state] or 0, ENDED[b.state] or 0
    if x ~= y then
        return x > y
    end
    return a.version > b.version
end

local function merge_campaign(row)
    local known = box.space.campaigns:get(row.id)
    if known == nil or beats(row, known) then
        M.put_campaign(row)
        return true
    end
    return false
end

local function merge_claim(row)
    local known = box.space.claims:get({row.campaign, row.seq, row.epoch})
    row.queued = false
    if known == nil then
        M.put_claim(row)
        return
    elseif known.state == 'done' then
        return -- a late copy
    end
    local newer = row.state == 'done' or row.term > known.term
        or row.term == known.term and row.state == 'withdrawn' and known.state == 'open'
    if newer then
        M.put_claim(row)
        if known.queued then
            M.drop_tasks(known)
        end
    end
end

local function row_of(space, tuple)
    if box.tuple.is ~= nil and box.tuple.is(tuple) then
        return tuple:tomap({names_only = true})
    end
    local row = {}
    for at, field in ipairs(box.space[space]:format()) do
        row[field.name] = tuple[at]
    end
    return row
end

local function is_open(campaign, seq, epoch)
    local known = box.space.campaigns:get(campaign)
    return known ~= nil and not M.ended(known.state) and claim_of({campaign = campaign, seq = seq, epoch = epoch}) ~= nil
end

--- Take in a peer's news, in one transaction; returns the ids of campaigns of which anything is new.
-- Claims go in with the batons that they belong to: who knows a baton knows what was claimed before it.
function M.merge(news, me)
    local touched = {}
    box.begin()
    local ok, err = pcall(function()
        for _, tuple in ipairs(news.campaigns) do
            local row = row_of('campaigns', tuple)
            if merge_campaign(row) then
                touched[row.id] = true
            end
        end
        for _, tuple in ipairs(news.claims) do
            local row = row_of('claims', tuple)
            local campaign = box.space.campaigns:get(row.campaign)
            if campaign ~= nil and (not M.ended(campaign.state) or row.state ~= 'open') then
                merge_claim(row)
            end
        end
        parts.merge(news.parts or {}, is_open) -- a claim is never told after its parts
        for _, tuple in ipairs(news.batons) do
            local row = row_of('batons', tuple)
            if M.advance(row) then
                touched[row.campaign] = true
                for _, claim in ipairs(M.open_claims(row.campaign, me)) do
                    if M.covered(claim, row.bases) then
                        M.withdraw(claim)
                    end
                end
            end
        end
    end)
    if not ok then
        box.rollback()
        error(err, 0)
    end
    box.commit()
    return touched
end

return M
