--- The user base: one row for each device, replicated, with one writer. Global `users`.
--
-- Row: {id, token, platform, app_version, language, resolution, tz, hour_from, hour_to, registered}.
-- app_version: major * 1,000,000 + minor * 1,000 + patch. tz: an IANA name or a fixed offset. hour_from, hour_to:
-- local hours at which the user wants to be sent to, or null. registered: unix seconds at which the token was got.
-- Ids are strings or numbers, in one scalar index; the walk counts rows, so skewed ids are walked evenly.

local fiber = require('fiber')

local users = {version = 1}

--- Rows between two yields where all rows are looked at: below a millisecond.
local SLICE = 1000

local FORMAT = {
    {name = 'id', type = 'scalar'},
    {name = 'token', type = 'string'},
    {name = 'platform', type = 'string'},
    {name = 'app_version', type = 'unsigned'},
    {name = 'language', type = 'string'},
    {name = 'resolution', type = 'string'},
    {name = 'tz', type = 'string'},
    {name = 'hour_from', type = 'unsigned', is_nullable = true},
    {name = 'hour_to', type = 'unsigned', is_nullable = true},
    {name = 'registered', type = 'number'},
}

users.migrations = {
    function()
        local space = box.schema.space.create('users', {format = FORMAT, if_not_exists = true})
        space:create_index('pk', {parts = {{1, 'scalar'}}, if_not_exists = true})
    end,
}

local function writable()
    if box.info.ro then
        box.error({type = 'read-only', reason = 'read-only: the users of this shard have their writer elsewhere'})
    end
end

--- Write rows in one transaction; a row replaces the one with its id.
function users.load(rows)
    writable()
    local space = box.space.users
    local loaded, updated = #rows, 0
    box.begin()
    local ok, err = pcall(function()
        local before = space:len()
        for i = 1, loaded do
            space:replace(rows[i])
        end
        updated = loaded - (space:len() - before)
    end)
    if not ok then
        box.rollback()
        error(err)
    end
    box.commit()
    return {loaded = loaded, updated = updated}
end

--- Delete devices whose token is dead: {{id, token, epoch}, ...}; returns how many left.
--
-- A device stays if it has another token by now, or has registered after the gateway said so.
function users.forget(dead)
    writable()
    local space = box.space.users
    local gone = 0
    box.begin()
    local ok, err = pcall(function()
        for _, entry in ipairs(dead) do
            local row = space:get(entry[1])
            if row ~= nil and row[2] == entry[2] and entry[3] > row[10] then
                space:delete(entry[1])
                gone = gone + 1
            end
        end
    end)
    if not ok then
        box.rollback()
        error(err)
    end
    box.commit()
    return gone
end

--- Up to `limit` rows behind the id `after` (nil: from the start).
function users.after(after, limit)
    local key = after ~= nil and {after} or {}
    return box.space.users.index.pk:select(key, {iterator = after ~= nil and 'GT' or 'ALL', limit = limit})
end

--- Call `visit(row)` for all rows, in slices between which others run.
function users.each(visit)
    local last
    repeat
        local rows = users.after(last, SLICE)
        for i = 1, #rows do
            visit(rows[i])
        end
        if #rows > 0 then
            last = rows[#rows][1]
        end
        fiber.yield()
    until #rows < SLICE
end

local function set(wanted)
    if wanted == nil then
        return nil
    end
    local found = {}
    for _, value in ipairs(type(wanted) == 'table' and wanted or {wanted}) do
        found[value] = true
    end
    return next(found) ~= nil and found or nil
end

--- A function (platform, app_version, language, resolution, tz) -> boolean for a campaign's filter.
--
-- platform, resolution, language and tz: a value or a list of them; language `de` takes `de-AT` too.
-- version_from and version_to: inclusive.
function users.matcher(filter)
    filter = filter or {}
    local platforms, resolutions = set(filter.platform), set(filter.resolution)
    local languages, zones = set(filter.language), set(filter.tz)
    local from, to = filter.version_from, filter.version_to
    return function(platform, version, language, resolution, tz)
        return (platforms == nil or platforms[platform] ~= nil)
            and (from == nil or version >= from)
            and (to == nil or version <= to)
            and (resolutions == nil or resolutions[resolution] ~= nil)
            and (zones == nil or zones[tz] ~= nil)
            and (languages == nil or languages[language] ~= nil
                or languages[language:match('^[^-_]*')] ~= nil)
    end
end

--- How many devices a filter takes; {} or nil: all, without looking at them.
function users.count(filter)
    if filter == nil or next(filter) == nil then
        return box.space.users:len()
    end
    local matches, count = users.matcher(filter), 0
    users.each(function(row)
        if matches(row[3], row[4], row[5], row[6], row[7]) then
            count = count + 1
        end
    end)
    return count
end

--- How many devices each time zone has.
function users.zones()
    local zones = setmetatable({}, {__serialize = 'map'})
    users.each(function(row)
        zones[row[7]] = (zones[row[7]] or 0) + 1
    end)
    return zones
end

users.functions = {producer = {'load', 'forget', 'count', 'zones'}}

return users
