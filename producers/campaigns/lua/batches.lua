--- A batch of users becomes tasks: grouped by platform, variant and window, at most 1,000 recipients each.

local fiber = require('fiber')

local M = {version = 1, needs = {'windows', 'users'}, migrations = {}}

--- Fields of a user: each costs as much to read as all the rest that is done for him, so none is read in vain.
local ID, TOKEN, PLATFORM, VERSION, LANGUAGE, RESOLUTION, TZ = 1, 2, 3, 4, 5, 6, 7
local HOUR_FROM, HOUR_TO, REGISTERED = 8, 9, 10

--- Recipients of a task.
M.most = 1000

--- The name of the variant for a language: `de-AT`, else `de`, else `default`.
local function variant_of(variants, language)
    if variants[language] ~= nil then
        return language
    end
    local base = language:match('^[^-_]*')
    return variants[base] ~= nil and base or 'default'
end

local function new_group(campaign, platform, variant, window)
    local spec = campaign.spec
    return {
        tube = platform, platform = platform, unknown = window.unknown,
        due = not window.open and window.not_before or nil,
        message = {
            campaign = campaign.id, app = spec.app, platform = platform,
            notification = spec.notifications[platform][variant],
            not_before = window.not_before, not_after = window.not_after, next_window = window.next_window,
            expires = spec.expires,
        },
        recipients = {}, count = 0,
        -- counted, but not sent
        skip = spec.expires ~= nil and not window.open and window.not_before >= spec.expires or nil,
    }
end

local function add(map, key, n)
    map[key] = (map[key] or 0) + n
end

--- Make a task of what a group has.
local function close(batch, group)
    local count, counts = group.count, batch.counts
    group.count = 0
    counts.matched = counts.matched + count
    if group.skip then
        return add(counts.skipped, 'expired', count)
    end
    counts.queued = counts.queued + count
    add(counts.platforms, group.platform, count)
    if group.due ~= nil then
        add(counts.windows, tostring(group.due), count)
    end
    if group.unknown then
        counts.unknown_zone = counts.unknown_zone + count
    end
    local message = table.copy(group.message)
    -- packed here, between yields, and copied as it is when the task is put
    message.recipients = box.tuple.new(group.recipients)
    local ids = {}
    for at, recipient in ipairs(group.recipients) do
        ids[at] = recipient[1]
    end
    group.recipients = {}
    local of = batch.tasks[group.tube]
    if of == nil then
        of = {}
        batch.tasks[group.tube] = of
    end
    local expires = group.message.expires
    table.insert(of, {message, {
        group = message.campaign, cost = count, due = group.due,
        ttl = expires and math.max(expires - batch.now, 0) or nil,
    }, ids})
end

function M.counts()
    return {walked = 0, matched = 0, queued = 0, batches = 0, unknown_zone = 0, skipped = {}, platforms = {}, windows = {}}
end

--- Add one batch's counts to what was stored.
function M.sum(stored, counts)
    local total = M.counts()
    for _, from in ipairs({stored or {}, counts}) do
        for key, value in pairs(from) do
            if type(value) == 'table' then
                for name, n in pairs(value) do
                    add(total[key], name, n)
                end
            else
                total[key] = total[key] + value
            end
        end
    end
    for _, key in ipairs({'skipped', 'platforms', 'windows'}) do
        setmetatable(total[key], {__serialize = 'map'})
    end
    return total
end

--- Begin a batch. campaign: its row; now: unix seconds. Users outside of the campaign are counted under `skipped`:
-- `filter`, `no_notification` (for that platform), `expired` (their next window opens after the campaign's end).
-- unknown_zone: those whose zone is not known, and who are sent to by the hours of UTC. sent: nil, or a function
-- (id) that says who has had his push before: he is walked, and that is all.
function M.new(campaign, now, sent)
    local spec = campaign.spec
    return {
        campaign = campaign, now = now, sent = sent, counts = M.counts(), tasks = {},
        matches = next(spec.filter or {}) ~= nil and users.matcher(spec.filter) or nil,
        plan = windows.planner(spec, campaign.zones, now),
        groups = {}, -- platform -> language -> window -> group; several languages share the groups of a variant
        variants = {},
    }
end

local function groups_of(batch, platform, language)
    local notifications = batch.campaign.spec.notifications[platform]
    if notifications == nil then
        return false
    end
    local variant = variant_of(notifications, language)
    local name = platform .. ' ' .. variant
    if batch.variants[name] == nil then
        batch.variants[name] = {name = variant, groups = {}}
    end
    return batch.variants[name]
end

--- Add a slice of rows from `first` to `last`; does not yield.
function M.add(batch, rows, first, last)
    local matches, plan, most, counts = batch.matches, batch.plan, M.most, batch.counts
    local by_platform, spec = batch.groups, batch.campaign.spec
    local preferred, quiet, sent = spec.use_preferred_hours, spec.quiet ~= nil, batch.sent
    for at = first, last do
        local row = rows[at]
        local platform = row[PLATFORM]
        if sent ~= nil and sent(row[ID]) then
            -- counted where that was
        elseif matches ~= nil
            and not matches(platform, row[VERSION], row[LANGUAGE], row[RESOLUTION], row[TZ]) then
            add(counts.skipped, 'filter', 1)
        else
            local by_language = by_platform[platform]
            if by_language == nil then
                by_language = {}
                by_platform[platform] = by_language
            end
            local language = row[LANGUAGE]
            local variant = by_language[language]
            if variant == nil then
                variant = groups_of(batch, platform, language)
                by_language[language] = variant
            end
            if not variant then
                add(counts.skipped, 'no_notification', 1)
            else
                local window
                if preferred then
                    window = plan(row[TZ], row[HOUR_FROM], row[HOUR_TO])
                elseif quiet then
                    window = plan(row[TZ], nil, nil)
                else
                    window = plan()
                end
                local group = variant.groups[window]
                if group == nil then
                    group = new_group(batch.campaign, platform, variant.name, window)
                    variant.groups[window] = group
                end
                local count = group.count + 1
                group.count = count
                group.recipients[count] = {row[ID], row[TOKEN], row[REGISTERED]}
                if count >= most then
                    close(batch, group)
                end
            end
        end
    end
    counts.walked = counts.walked + last - first + 1
end

--- Make tasks of the rest; yields. Returns {tube -> {{data, opts, ids of its users}, ...}} and counts.
function M.finish(batch)
    local closed = 0
    for _, variant in pairs(batch.variants) do
        for _, group in pairs(variant.groups) do
            if group.count > 0 then
                close(batch, group)
                closed = closed + 1
                if closed % 10 == 0 then
                    fiber.yield()
                end
            end
        end
    end
    batch.counts.batches = 1
    return batch.tasks, batch.counts
end

return M
