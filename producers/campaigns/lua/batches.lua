--- A batch of users becomes tasks: grouped by platform, variant and window, at most 1,000 recipients each.

local fiber = require('fiber')

local M = {version = 1, needs = {'windows', 'users'}, migrations = {}}

--- Recipients of a task; rows looked at between two yields, below a millisecond.
M.most = 1000
M.slice = 500

--- The name of the variant for a language: `de-AT`, else `de`, else `default`.
local function variant_of(variants, language)
    if variants[language] ~= nil then
        return language
    end
    local base = language:match('^[^-_]*')
    return variants[base] ~= nil and base or 'default'
end

local function new_group(spec, campaign, platform, variant, window)
    return {
        tube = platform,
        due = not window.open and window.not_before or nil,
        message = {
            campaign = campaign, app = spec.app, platform = platform,
            notification = spec.notifications[platform][variant],
            not_before = window.not_before, not_after = window.not_after, next_window = window.next_window,
            expires = spec.expires,
        },
        recipients = {},
    }
end

local function close(group, tasks, campaign, now)
    local message, count = table.copy(group.message), #group.recipients
    -- packed here, between yields, and copied as it is when the task is put
    message.recipients = box.tuple.new(group.recipients)
    local of = tasks[group.tube]
    if of == nil then
        of = {}
        tasks[group.tube] = of
    end
    local expires = group.message.expires
    table.insert(of, {message, {
        group = campaign, cost = count, due = group.due, ttl = expires and math.max(expires - now, 0) or nil,
    }})
    group.recipients = {}
end

local function add(counts, map, key, n)
    counts[map][key] = (counts[map][key] or 0) + n
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
                    add(total, key, name, n)
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

--- Split rows of users; yields between slices. Returns {tube -> {{data, opts}, ...}} and counts.
--
-- campaign: its row; now: unix seconds. Users outside the campaign are counted under `skipped`: `filter`,
-- `no_notification` (for that platform), `expired` (their next window opens after the campaign's end).
-- unknown_zone: those whose zone is not known, and who are sent to by the hours of UTC.
function M.split(campaign, rows, now)
    local spec, id = campaign.spec, campaign.id
    local counts, groups, tasks = M.counts(), {}, {}
    local matches = users.matcher(spec.filter)
    local plan = windows.planner(spec, campaign.zones, now)
    local variants_kept = {}

    local function take(row)
        local device, token, platform, version, language, resolution, tz, from, to, registered = row:unpack()
        if not matches(platform, version, language, resolution, tz) then
            return add(counts, 'skipped', 'filter', 1)
        end
        local variants = spec.notifications[platform]
        if variants == nil then
            return add(counts, 'skipped', 'no_notification', 1)
        end
        counts.matched = counts.matched + 1
        local window = plan(tz, from, to)
        if spec.expires ~= nil and not window.open and window.not_before >= spec.expires then
            return add(counts, 'skipped', 'expired', 1)
        end
        if window.unknown then
            counts.unknown_zone = counts.unknown_zone + 1
        end
        local kept = variants_kept[platform]
        if kept == nil then
            kept = {}
            variants_kept[platform] = kept
        end
        local variant = kept[language]
        if variant == nil then
            variant = variant_of(variants, language)
            kept[language] = variant
        end
        local key = platform .. ' ' .. variant .. ' ' .. window.key
        local group = groups[key]
        if group == nil then
            group = new_group(spec, id, platform, variant, window)
            groups[key] = group
        end
        local recipients = group.recipients
        recipients[#recipients + 1] = {device, token, registered}
        counts.queued = counts.queued + 1
        add(counts, 'platforms', platform, 1)
        if group.due ~= nil then
            add(counts, 'windows', tostring(group.due), 1)
        end
        if #recipients >= M.most then
            close(group, tasks, id, now)
        end
    end

    for at = 1, #rows do
        take(rows[at])
        if at % M.slice == 0 then
            fiber.yield()
        end
    end
    for _, group in pairs(groups) do
        if #group.recipients > 0 then
            close(group, tasks, id, now)
        end
    end
    counts.walked, counts.batches = #rows, 1
    return tasks, counts
end

return M
