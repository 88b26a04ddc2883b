--- When a device may be sent to: pure functions of a zone table, hours and a moment.
--
-- A zone is a list of {unix seconds, offset in seconds}, ascending: from that moment on local time is UTC plus
-- the offset. Before its first entry the first offset holds. Hours are local and whole, 0 to 24.

local windows = {version = 1}

local HOUR, DAY = 3600, 86400
--- A mask that is not empty is met within a day and two changes of offset; this many steps are beyond any.
local STEPS = 24 * 8

local floor = math.floor

--- Seconds to add to UTC at `utc`, and the moment at which that changes (nil: never).
function windows.offset(zone, utc)
    local found = 1
    for i = 2, #zone do
        if zone[i][1] > utc then
            return zone[found][2], zone[i][1]
        end
        found = i
    end
    return zone[found][2], nil
end

--- Say whether an hour lies in [from, to), which may wrap around midnight; the whole day if both are equal.
local function within(hour, from, to)
    from, to = from % 24, to % 24
    if from == to then
        return true
    elseif from < to then
        return from <= hour and hour < to
    end
    return hour >= from or hour < to
end

local function build(allowed)
    local mask, count = {}, 0
    for hour = 0, 23 do
        mask[hour] = allowed(hour)
        count = count + (mask[hour] and 1 or 0)
    end
    return mask, count
end

--- The hours at which one may send, or nil if all are free.
--
-- quiet: {from=, to=} or nil; from, to: the device's own hours or nil. Where the two leave nothing, the
-- device's own hours hold: who asked for night hours is awake.
function windows.mask(quiet, from, to)
    local own = from ~= nil and to ~= nil
    local loud = quiet ~= nil and quiet.from % 24 ~= quiet.to % 24
    local mask, count = build(function(hour)
        return (not own or within(hour, from, to)) and not (loud and within(hour, quiet.from, quiet.to))
    end)
    if count == 0 then
        mask, count = build(function(hour) return within(hour, from, to) end)
    end
    if count == 24 then
        return nil
    end
    return mask
end

local function allowed(zone, mask, utc)
    return mask[floor((utc + windows.offset(zone, utc)) % DAY / HOUR)]
end

--- The next moment at which a local hour begins or the offset changes.
local function next_change(zone, utc)
    local offset, change = windows.offset(zone, utc)
    local hour = utc + HOUR - (utc + offset) % HOUR
    return change ~= nil and change < hour and change or hour
end

--- The first moment from `utc` on at which the mask's answer is `wanted`.
local function seek(zone, mask, utc, wanted)
    for _ = 1, STEPS do
        if allowed(zone, mask, utc) == wanted then
            return utc
        end
        utc = next_change(zone, utc)
    end
    error('windows: a mask without an hour')
end

--- The window that is open at `now`, or the next: its start (`now` rounded down if it is open), its end, and
-- the start of the one after it; unix seconds.
function windows.find(zone, mask, now)
    local start = seek(zone, mask, floor(now), true)
    local stop = seek(zone, mask, start, false)
    return start, stop, seek(zone, mask, stop, true)
end

--- The windows from the one that starts at `first` on: {{start, end}, ...}, each of them daily until the next
-- begins. There is more than one only where the zone's offset changes later on: the same hours are then at
-- other moments, and a window that holds the change is shorter or longer.
function windows.following(zone, mask, first)
    local base, found, last = windows.offset(zone, first), {}, nil
    local function add(start)
        local stop = seek(zone, mask, start, false)
        local daily = last ~= nil and (start - last[1]) % DAY == 0 and stop - start == last[2] - last[1]
        if last == nil or (start >= last[2] and not daily) then
            last = {start, stop}
            found[#found + 1] = last
        end
    end
    add(first)
    for i = 2, #zone do
        local days = floor((zone[i][1] - first) / DAY)
        for day = math.max(days - 1, 1), days + 2 do
            local plain = first + day * DAY
            -- local time stays: what the offset gains, the moment loses. Near the change it is the new offset:
            -- an hour that is left out begins with it, of one that comes twice it is the second
            add(seek(zone, mask, plain + base - windows.offset(zone, plain + HOUR), true))
        end
    end
    return found
end

--- The zone of a fixed offset such as +05:30, -0800, UTC or Z; nil for anything else.
function windows.fixed(name)
    if name == 'UTC' or name == 'Z' or name == 'GMT' or name == '' then
        return {{0, 0}}
    end
    local sign, hours, minutes = name:match('^([+-])(%d%d):?(%d%d)$')
    if sign == nil or tonumber(hours) > 14 or tonumber(minutes) > 59 then
        return nil
    end
    local seconds = tonumber(hours) * HOUR + tonumber(minutes) * 60
    return {{0, sign == '-' and -seconds or seconds}}
end

--- A function (tz, from, to) -> window for devices of one campaign, its answers kept: one moment, few zones.
--
-- window: {open=, not_before=, not_after=, next_window = those after it}, one object for each; where all hours are free, only
-- `open`, which says whether it is open now. A zone that is neither in the table nor a fixed offset counts as UTC,
-- and the window is `unknown`.
function windows.planner(spec, zones, now)
    -- windows of devices without and with hours of their own, by zone; and one object for each window
    local without, with, by_key, free = {}, {}, {}, {open = true}
    local preferred, quiet = spec.use_preferred_hours, spec.quiet

    local function plan(tz, from, to)
        local mask = windows.mask(quiet, from, to)
        if mask == nil then
            return free
        end
        local zone, unknown = zones[tz], nil
        if zone == nil or #zone == 0 then
            zone = windows.fixed(tz)
            if zone == nil then
                zone = {{0, 0}}
                unknown = true
            end
        end
        local start, stop, after = windows.find(zone, mask, now)
        local later = windows.following(zone, mask, after)
        local parts = {('%d %d %s'):format(start, stop, unknown)}
        for _, each in ipairs(later) do
            parts[#parts + 1] = ('%d %d'):format(each[1], each[2])
        end
        local key = table.concat(parts, ' ')
        if by_key[key] == nil then
            by_key[key] = {
                open = start <= now, not_before = start, not_after = stop, next_window = later, unknown = unknown,
            }
        end
        return by_key[key]
    end

    if quiet == nil and not preferred then
        return function() return free end
    end
    return function(tz, from, to)
        local window
        if not preferred or from == nil or to == nil then
            window = without[tz]
            if window == nil then
                window = plan(tz, nil, nil)
                without[tz] = window
            end
            return window
        end
        local of = with[tz]
        if of == nil then
            of = {}
            with[tz] = of
        end
        local hours = from * 32 + to
        window = of[hours]
        if window == nil then
            window = plan(tz, from, to)
            of[hours] = window
        end
        return window
    end
end

windows.migrations = {}

return windows
