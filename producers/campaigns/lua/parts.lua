--- Which users of open claims have had their push: so who takes over a claim does not send to them again.
--
-- A row for each task of a claim, with the ids of its users. It is written with the task (rev 0), and told to the
-- others once the task is done: then its `rev` is a number that grows with each such change on this server. What
-- is above a peer's mark is news to it. Rows of a claim are deleted when the claim is done or withdrawn.
--
-- Users go by their ids, not by their places in a batch: who is deleted, added or changed between two walks over
-- a claim moves places, and with them somebody would be missed.

local msgpack = require('msgpack')

local M = {version = 1, migrations = {
    function()
        local space = box.schema.space.create('claim_parts', {is_local = true, if_not_exists = true, format = {
            {'campaign', 'string'}, {'seq', 'unsigned'}, {'epoch', 'string'},
            {'server', 'string'}, {'number', 'unsigned'}, -- the task's id there; below 2^32: a part of one
            {'rev', 'unsigned'}, -- 0: not done, and nobody else's business
            {'ids', 'string'}, -- a packed list; nobody unpacks it before a takeover
        }})
        space:create_index('pk', {
            parts = {'campaign', 'seq', 'epoch', 'server', 'number'}, if_not_exists = true,
        })
        space:create_index('rev', {parts = {'rev'}, unique = false, if_not_exists = true})
    end,
}}

--- Bytes that are told at once; the rest is told with the next call.
M.options = {most = 2 ^ 19}

local rev = 0

local function next_rev()
    rev = rev + 1
    return rev
end

function M.start(old)
    M.options = old and old.options or M.options
    local last = box.space.claim_parts.index.rev:max()
    rev = last and tonumber(last.rev) or 0
end

--- The mark of all that is known here.
function M.mark()
    return rev
end

local function key_of(claim, ...)
    return {claim.campaign, claim.seq, claim.epoch, ...}
end

-- ── of this server's tasks ──

--- Note a task that was just put; ids: of its users. claim: a row, of which this server is the owner.
function M.queued(claim, task, ids)
    box.space.claim_parts:insert(key_of(claim, claim.owner, task, 0, msgpack.encode(ids)))
end

--- A task is done, within the transaction of its ack.
function M.done(claim, task)
    box.space.claim_parts:update(key_of(claim, claim.owner, task), {{'=', 'rev', next_rev()}})
end

--- A part of a task is done: `rest` are the recipients that it still has.
function M.shortened(claim, task, rest)
    local key = key_of(claim, claim.owner, task)
    local row = box.space.claim_parts:get(key)
    if row == nil then
        return
    end
    local left, ids, done = M.set(), {}, {}
    for _, recipient in ipairs(rest) do
        table.insert(ids, recipient[1])
        left.add(recipient[1])
    end
    for _, id in ipairs(msgpack.decode(row.ids)) do
        if not left.has(id) then
            table.insert(done, id)
        end
    end
    if #done > 0 then
        local number = next_rev()
        box.space.claim_parts:update(key, {{'=', 'ids', msgpack.encode(ids)}})
        box.space.claim_parts:insert(key_of(claim, claim.owner, number, number, msgpack.encode(done)))
    end
end

--- Forget a claim; `undone`: only what is not done, of a claim that others go on with.
function M.drop(claim, undone)
    for _, row in ipairs(box.space.claim_parts:select(key_of(claim))) do
        if not undone or row.rev == 0 then
            box.space.claim_parts:delete(key_of(claim, row.server, row.number))
        end
    end
end

--- Forget all claims of a campaign.
function M.forget(campaign)
    for _, row in ipairs(box.space.claim_parts:select({campaign})) do
        M.drop(row)
    end
end

-- ── at a takeover ──

--- A set of ids. Large numbers are no keys of Lua's tables: they go by their text.
function M.set()
    local plain, large = {}, {}
    return {
        add = function(id)
            if type(id) == 'cdata' then
                large[tostring(id)] = true
            else
                plain[id] = true
            end
        end,
        has = function(id)
            if type(id) == 'cdata' then
                return large[tostring(id)] ~= nil
            end
            return plain[id] ~= nil
        end,
    }
end

--- A function (id) -> whether that user of a claim has had his push; nil if nobody has.
function M.sent(claim)
    local found
    for _, row in box.space.claim_parts:pairs(key_of(claim)) do
        if row.rev > 0 then
            found = found or M.set()
            for _, id in ipairs(msgpack.decode(row.ids)) do
                found.add(id)
            end
        end
    end
    return found and found.has
end

-- ── news ──

--- What was done behind the mark `since`, as far as it may be told at once, and the mark up to which that is:
-- rows, mark, whether there is more. `but`: a server that needs not be told of its own.
function M.news(since, but)
    local rows, size, mark = {}, 0, since
    for _, row in box.space.claim_parts.index.rev:pairs({since}, {iterator = 'GT'}) do
        if size >= M.options.most then
            return rows, mark, true
        end
        mark = tonumber(row.rev)
        if row.server ~= but then
            table.insert(rows, row)
            size = size + row:bsize()
        end
    end
    return rows, rev, false
end

--- Take in rows of others, within a transaction. wanted(campaign, seq, epoch): whether the claim is open.
function M.merge(rows, wanted)
    for _, row in ipairs(rows) do
        local campaign, seq, epoch, server, number, _, ids = unpack(row, 1, 7)
        if wanted(campaign, seq, epoch) then
            local known = box.space.claim_parts:get({campaign, seq, epoch, server, number})
            if known == nil then
                box.space.claim_parts:replace({campaign, seq, epoch, server, number, next_rev(), ids})
            end
        end
    end
end

return M
