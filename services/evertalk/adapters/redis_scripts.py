"""The scripts: what must happen at once in a region's Redis: claim, mirror append, jump, trim, origins, fold.

Those that free memory, or that freeing waits for, run in spite of maxmemory: their writes are small and
bounded. Whole numbers are formatted, not converted: Lua's own conversion turns 1e15 into a float.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from evertalk.adapters import redis_keys as keys


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the SHA-1 that EVALSHA wants."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


_ALLOW_OOM = "#!lua flags=allow-oom\n"
_PLAIN = "#!lua\n"

_LIBRARY = f"""
local META, ORIGINS, FLOOR, BASE = '{keys.META}', '{keys.ORIGINS}', '{keys.FLOOR}', '{keys.BASE}'
local LOG, MIRROR, WAKE, APPENDED = '{keys.LOG}', '{keys.MIRROR}', '{keys.WAKE}', '{keys.APPENDED}'

local function whole(n) return string.format('%.0f', n) end

local function exists(key) return redis.call('TYPE', key).ok == 'stream' end

local function last_of(key)  -- 0 if there is no such stream
  if not exists(key) then return 0 end
  local info = redis.call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return tonumber(string.match(info[i + 1], '%d+$')) end
  end
end

local function create(key)  -- an empty stream
  redis.call('XGROUP', 'CREATE', key, 'g', '0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', key, 'g')
end

local function known(origin)
  local raw = redis.call('HGET', ORIGINS, origin)
  return raw and cjson.decode(raw)
end

local function note(origin, region, state, last)
  local digits = {{}}
  for i = 1, #last do digits[i] = whole(last[i]) end
  redis.call('HSET', ORIGINS, origin, '{{"region":' .. cjson.encode(region) .. ',"state":"' .. state ..
    '","last":[' .. table.concat(digits, ',') .. ']}}')
end

local function wake()
  redis.call('XADD', WAKE, 'MAXLEN', '1', '*', 'o', '')
  redis.call('PUBLISH', APPENDED, '')
end

local function remove(origin, shards)  -- its logs or mirrors, floors and bases
  for shard = 0, shards - 1 do
    for _, prefix in ipairs({{LOG, MIRROR}}) do
      local key = prefix .. origin .. ':' .. shard
      redis.call('DEL', key)
      redis.call('HDEL', FLOOR, key)
      redis.call('HDEL', BASE, key)
    end
  end
end
"""

#: ARGV: region, run_id, shards, name for a new origin. Returns {"kept" | "new" | "shards" | "region", value}.
CLAIM = Script(
    _ALLOW_OOM
    + _LIBRARY
    + """
local region, run_id, shards, fresh = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local meta = redis.call('HMGET', META, 'run_id', 'origin', 'region', 'shards')
if meta[3] and meta[3] ~= region then return {'region', meta[3]} end
if meta[4] and tonumber(meta[4]) ~= shards then return {'shards', meta[4]} end

local kept = meta[2]
if kept then
  local whole_origin = meta[1] == run_id
  for shard = 0, shards - 1 do
    whole_origin = whole_origin and exists(LOG .. kept .. ':' .. shard)
  end
  local info = known(kept)
  if whole_origin and not (info and info.state ~= 'open') then
    if not info then note(kept, region, 'open', {}); wake() end
    return {'kept', kept}
  end
  if not info then note(kept, region, 'open', {}) end
end

local flat = redis.call('HGETALL', ORIGINS)
for i = 1, #flat, 2 do
  local info = cjson.decode(flat[i + 1])
  if info.region == region and info.state == 'open' then
    for shard = 0, shards - 1 do
      info.last[shard + 1] = math.max(info.last[shard + 1] or 0, last_of(LOG .. flat[i] .. ':' .. shard))
    end
    note(flat[i], region, 'closed', info.last)
  end
end
for shard = 0, shards - 1 do create(LOG .. fresh .. ':' .. shard) end
redis.call('HSET', META, 'run_id', run_id, 'origin', fresh, 'region', region, 'shards', ARGV[3])
note(fresh, region, 'open', {})
wake()
return {'new', fresh}
"""
)

#: KEYS: log. ARGV: payload. Returns the new entry's ID, or nothing if there is no such stream.
APPEND = Script(
    _PLAIN
    + f"""
local id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '0-*', '{keys.PAYLOAD}', ARGV[1])
if id then redis.call('PUBLISH', '{keys.APPENDED}', KEYS[1] .. ' ' .. id .. ' ' .. ARGV[1]) end
return id
"""
)

#: KEYS: mirror. ARGV: origin, predecessor, channel, announcement or "", payloads. Returns 1 if appended.
APPEND_MIRROR = Script(
    _PLAIN
    + _LIBRARY
    + f"""
local info = known(ARGV[1])
if info and info.state == 'folded' then return 0 end
local position = tonumber(ARGV[2])
if last_of(KEYS[1]) ~= position then return 0 end
for i = 5, #ARGV do
  position = position + 1
  local id = '0-' .. whole(position)
  redis.call('XADD', KEYS[1], id, '{keys.PAYLOAD}', ARGV[i])
  redis.call('PUBLISH', '{keys.MIRRORED}', KEYS[1] .. ' ' .. id .. ' ' .. ARGV[i])
end
if ARGV[4] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return 1
"""
)

#: KEYS: mirror. ARGV: origin, floor. Returns its last position.
JUMP_MIRROR = Script(
    _ALLOW_OOM
    + _LIBRARY
    + """
local last, floor = last_of(KEYS[1]), tonumber(ARGV[2])
local info = known(ARGV[1])
if floor <= last or (info and info.state == 'folded') then return last end
if not exists(KEYS[1]) then create(KEYS[1]) end
redis.call('HSET', FLOOR, KEYS[1], ARGV[2])
redis.call('HSET', BASE, KEYS[1], ARGV[2])
redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', '0')
redis.call('XSETID', KEYS[1], '0-' .. ARGV[2])
return floor
"""
)

#: KEYS: stream. ARGV: position. Returns its floor.
TRIM = Script(
    _ALLOW_OOM
    + _LIBRARY
    + """
local floor = tonumber(redis.call('HGET', FLOOR, KEYS[1]) or '0')
local position = math.min(tonumber(ARGV[1]), last_of(KEYS[1]))
if position > floor then
  redis.call('HSET', FLOOR, KEYS[1], whole(position))
  redis.call('XTRIM', KEYS[1], 'MINID', '=', '0-' .. whole(position + 1))
  floor = position
end
return floor
"""
)

#: KEYS: store key. ARGV: value, life in ms. An older copy does not replace a younger one.
PUBLISH_STORE = Script(
    _ALLOW_OOM
    + """
if redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
"""
)

#: ARGV: own region, JSON [[origin, region, state, [last]], …]. Returns how many changed.
CARRY_ORIGINS = Script(
    _ALLOW_OOM
    + _LIBRARY
    + """
local rank = {open = 1, closed = 2, folded = 3}
local mine = redis.call('HGET', META, 'origin')
local shards = tonumber(redis.call('HGET', META, 'shards') or '0')
local changes = 0
for _, item in ipairs(cjson.decode(ARGV[2])) do
  local origin, region, state, last = item[1], item[2], item[3], item[4]
  if origin ~= mine then
    -- A region has one open origin: what peers still hold open of ours is the life before a lost disk.
    if mine and region == ARGV[1] and state == 'open' then state = 'closed' end
    local old = known(origin)
    local changed = not old
    old = old or {region = region, state = 'open', last = {}}
    if rank[state] > rank[old.state] then
      old.state, changed = state, true
      if state == 'folded' then remove(origin, math.max(shards, #old.last, #last)) end
    end
    for i = 1, math.max(#old.last, #last) do
      local position = math.max(old.last[i] or 0, last[i] or 0)
      if position ~= old.last[i] then old.last[i], changed = position, true end
    end
    if changed then
      note(origin, old.region, old.state, old.last)
      changes = changes + 1
    end
  end
end
if changes > 0 then wake() end
return changes
"""
)

#: ARGV: origin, its region. The own open origin is left alone.
FOLD = Script(
    _ALLOW_OOM
    + _LIBRARY
    + """
if redis.call('HGET', META, 'origin') == ARGV[1] then return 0 end
local info = known(ARGV[1]) or {region = ARGV[2], state = 'open', last = {}}
remove(ARGV[1], math.max(tonumber(redis.call('HGET', META, 'shards') or '0'), #info.last))
if info.state ~= 'folded' then
  note(ARGV[1], info.region, 'folded', info.last)
  wake()
end
return 1
"""
)

#: ARGV: origin.
FORGET_FOLDED = Script(
    _ALLOW_OOM
    + _LIBRARY
    + """
local info = known(ARGV[1])
if info and info.state == 'folded' then redis.call('HDEL', ORIGINS, ARGV[1]); wake() end
return 1
"""
)

BOARD = (APPEND_MIRROR, JUMP_MIRROR, TRIM, PUBLISH_STORE, CARRY_ORIGINS, FOLD, FORGET_FOLDED)
