-- Prepended to every script. A script is one transaction: the server runs no other command meanwhile.
-- ARGV[1] is the key prefix. Keys are built here instead of declared, so this needs one server (or a master with
-- replicas), not a sharded cluster: queue, leases and records must change together.
-- Times are the server's, so that workers on several hosts agree when a lease expires.
local p = ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local EVENTS_KEPT = 1000 -- of a running job
local EVENTS_LEFT = 16 -- of an ended job: enough for a client that was disconnected at the end

local function stamp(t) return string.format('%.6f', t) end
local function job_key(id) return p .. 'job:' .. id end
local function events_key(id) return p .. 'events:' .. id end
local function batch_key(id) return p .. 'batch:' .. id end
local function index(status) return p .. 'status:' .. status end

-- Whether this server, since it started, is known to hold every record. If it was restarted (and may have lost its last
-- second) or flushed, the key `whole` is missing or names an earlier run. After the run it names the rebuilding that
-- set it, so that a caller that compares two readings notices whether records were missing in between.
local function run_id() return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') end
local function is_complete()
  local mark = redis.call('GET', p .. 'whole')
  return mark and string.match(mark, '^%x+') == run_id()
end

local function emit(id, event, data)
  redis.call('XADD', events_key(id), 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', event, 'data', data)
end

local function emit_state(id)
  local f = redis.call('HMGET', job_key(id), 'status', 'attempts', 'error_code', 'error_message', 'batch')
  local data = {state = f[1], attempts = tonumber(f[2])}
  if f[3] then data.error = {code = f[3], message = f[4]} end
  emit(id, 'state', cjson.encode(data))
  if f[5] then emit(f[5], 'job', cjson.encode({job = id, state = f[1]})) end
end

-- A job is leased as a whole, or in shards: numbers from 0, and 'seal', which merges the files of the others. A lease
-- of a shard is the member <id>/<token> of `leases`; held:<id> has the shard of each token, open:<id> the shards that
-- are neither leased nor finished, shards:<id> the losses and the progress of each.
local SEAL = 'seal'
local function shards_of(id) return tonumber(redis.call('HGET', job_key(id), 'shards') or '1') end
local function lease_member(id, token) return shards_of(id) > 1 and id .. '/' .. token or id end

-- The owner with the fewest leases is served first, then the job that was submitted first: ready:<owner> has the
-- owner's jobs that can be claimed, units:<owner> the number of its leases, ready_owners the owners by both. A priority
-- orders the jobs within ready:<owner> only, so that it takes nothing from other owners.
local ORDERS = 2 ^ 40 -- above the number of any job; leases and priorities are multiplied by it
local function rank_owner(owner)
  local head = redis.call('ZRANGE', p .. 'ready:' .. owner, 0, 0)[1]
  local seq = head and redis.call('HGET', job_key(head), 'seq')
  if seq then
    local leases = redis.call('SCARD', p .. 'units:' .. owner)
    redis.call('ZADD', p .. 'ready_owners', string.format('%.0f', leases * ORDERS + tonumber(seq)), owner)
  else
    redis.call('ZREM', p .. 'ready_owners', owner)
  end
end

local function set_ready(id, ready)
  local f = redis.call('HMGET', job_key(id), 'owner', 'seq', 'priority')
  if ready then
    local order = tonumber(f[2]) - tonumber(f[3] or '0') * ORDERS
    redis.call('ZADD', p .. 'ready:' .. f[1], string.format('%.0f', order), id)
  else
    redis.call('ZREM', p .. 'ready:' .. f[1], id)
  end
  rank_owner(f[1])
end

local function take_lease(id, member, until_)
  local owner = redis.call('HGET', job_key(id), 'owner')
  redis.call('ZADD', p .. 'leases', stamp(until_), member)
  redis.call('SADD', p .. 'units:' .. owner, member)
  rank_owner(owner)
end

local function drop_lease(id, member)
  local owner = redis.call('HGET', job_key(id), 'owner')
  redis.call('ZREM', p .. 'leases', member)
  redis.call('SREM', p .. 'units:' .. owner, member)
  rank_owner(owner)
end

local function drop_leases(id)
  drop_lease(id, id)
  for _, token in ipairs(redis.call('HKEYS', p .. 'held:' .. id)) do drop_lease(id, id .. '/' .. token) end
  redis.call('DEL', p .. 'held:' .. id)
end

-- Updates what clients see of the shards.
local function note_shards(id)
  local running = 0
  for _, shard in ipairs(redis.call('HVALS', p .. 'held:' .. id)) do
    if shard ~= SEAL then running = running + 1 end
  end
  redis.call('HSET', job_key(id), 'shards_running', running, 'shards_done',
    redis.call('HGET', p .. 'shards:' .. id, 'done') or '0')
end

local function open_shard(id, shard)
  redis.call('ZADD', p .. 'open:' .. id, shard == SEAL and 1e9 or shard, shard)
  redis.call('HSET', job_key(id), 'queued_at', stamp(now))
  set_ready(id, true)
end

-- Records the frames that a shard has finished, or forgets them, and returns the sum of all shards. The sum is kept, so
-- that a beat costs the same however many shards a job has; a job of an older version has none.
local function count_frames(id, shard, frame)
  local key, before = p .. 'shards:' .. id, 0
  if redis.call('HEXISTS', key, 'frames') == 0 then
    local sum, known = 0, redis.call('HGETALL', key)
    for number = 1, #known, 2 do
      if string.sub(known[number], 1, 6) == 'frame:' then sum = sum + tonumber(known[number + 1]) end
    end
    redis.call('HSET', key, 'frames', sum)
  end
  before = tonumber(redis.call('HGET', key, 'frame:' .. shard) or '0')
  if frame then
    redis.call('HSET', key, 'frame:' .. shard, frame)
  else
    redis.call('HDEL', key, 'frame:' .. shard)
  end
  return redis.call('HINCRBY', key, 'frames', string.format('%.0f', (frame or 0) - before))
end

-- Opens a leased shard again and discards the progress it reported.
local function give_back(id, token)
  local shard = redis.call('HGET', p .. 'held:' .. id, token)
  drop_lease(id, id .. '/' .. token)
  redis.call('HDEL', p .. 'held:' .. id, token)
  redis.call('HDEL', p .. 'shards:' .. id, 'spared:' .. token)
  count_frames(id, shard)
  open_shard(id, shard)
  note_shards(id)
  return shard
end

local function forget_shards(id)
  redis.call('ZREM', p .. 'divided', id)
  redis.call('DEL', p .. 'open:' .. id, p .. 'shards:' .. id)
end

local function insert(id, kind, owner, spec, model_id, model_sha256, digest, result_key, created_at, price, shards,
    options)
  local seq = redis.call('INCR', p .. 'seq')
  redis.call('HSET', job_key(id), 'id', id, 'seq', seq, 'kind', kind, 'owner', owner, 'spec', spec,
    'model_id', model_id, 'model_sha256', model_sha256, 'digest', digest, 'result_key', result_key,
    'status', 'queued', 'attempts', 0, 'lost', 0, 'created_at', created_at, 'queued_at', stamp(now))
  if price and price ~= '' then redis.call('HSET', job_key(id), 'price', price) end
  if options and options ~= '' then -- labels, priority: texts
    for name, text in pairs(cjson.decode(options)) do redis.call('HSET', job_key(id), name, text) end
  end
  redis.call('ZADD', index('queued'), seq, id)
  redis.call('ZADD', p .. 'all', seq, id)
  redis.call('ZADD', p .. 'owner:' .. owner, seq, id)
  local batch = redis.call('HGET', job_key(id), 'batch')
  if batch then
    redis.call('ZADD', p .. 'batch_jobs:' .. batch, seq, id)
    redis.call('SADD', p .. 'batch_active:' .. batch, id)
  end
  shards = tonumber(shards ~= '' and shards or '1')
  if shards > 1 then
    redis.call('HSET', job_key(id), 'shards', shards)
    redis.call('ZADD', p .. 'divided', seq, id)
    for shard = 0, shards - 1 do redis.call('ZADD', p .. 'open:' .. id, shard, shard) end
    note_shards(id)
  end
  set_ready(id, true)
  emit_state(id)
end

-- Records the job of an Idempotency-Key: one that was made for it, or (alias '1') one that existed and answered it.
local function remember(id, idem, request_digest, idem_s, alias)
  if idem == '' then return end
  redis.call('DEL', p .. 'idem:' .. idem)
  redis.call('HSET', p .. 'idem:' .. idem, 'job', id, 'digest', request_digest)
  if alias == '1' then redis.call('HSET', p .. 'idem:' .. idem, 'alias', '1') end
  redis.call('EXPIRE', p .. 'idem:' .. idem, idem_s)
end

-- The status indexes are sorted by the order of submission, so the queue is one of them.
local function move(id, to)
  local f = redis.call('HMGET', job_key(id), 'status', 'seq')
  redis.call('ZREM', index(f[1]), id)
  redis.call('ZADD', index(to), f[2], id)
  redis.call('HSET', job_key(id), 'status', to)
  drop_leases(id)
end

-- Leases that were lost before the job last came further than any attempt before: they do not make it fail.
local function forgiven(id) return tonumber(redis.call('HGET', job_key(id), 'forgiven') or '0') end

local function requeue(id)
  move(id, 'queued')
  redis.call('HSET', job_key(id), 'queued_at', stamp(now), 'worker', '', 'token', '')
  redis.call('HDEL', job_key(id), 'progress', 'spared')
  set_ready(id, true)
  emit_state(id)
end

-- The end of what somebody wants to be told of, unless that was done before the broker lost it.
local function announce_end(key, id)
  local f = redis.call('HMGET', key, 'webhook', 'webhook_done')
  if f[1] and not f[2] then redis.call('ZADD', p .. 'webhooks', stamp(now), id) end
end

-- A batch ends with the last of its jobs, once. While its jobs are restored it has no record, and does not end.
local function end_batch(batch)
  if redis.call('EXISTS', batch_key(batch)) == 0 or redis.call('SCARD', p .. 'batch_active:' .. batch) > 0 then return end
  if redis.call('HSETNX', batch_key(batch), 'ended_at', stamp(now)) == 0 then return end
  emit(batch, 'state', cjson.encode({state = 'ended'}))
  announce_end(batch_key(batch), batch)
end

local function keep_batch(id, owner, request_digest, labels, webhook, created_at)
  redis.call('HSET', batch_key(id), 'id', id, 'owner', owner, 'digest', request_digest, 'created_at', created_at)
  if labels ~= '' then redis.call('HSET', batch_key(id), 'labels', labels) end
  if webhook ~= '' then redis.call('HSET', batch_key(id), 'webhook', webhook) end
  end_batch(id)
end

local function leave_batch(id)
  local batch = redis.call('HGET', job_key(id), 'batch')
  if batch and redis.call('SREM', p .. 'batch_active:' .. batch, id) == 1 then end_batch(batch) end
end

-- Sets a final state. keep_s: seconds until the next step of retention.
local function conclude(id, status, keep_s)
  move(id, status)
  set_ready(id, false)
  if shards_of(id) > 1 then
    note_shards(id)
    forget_shards(id)
  end
  redis.call('HSET', job_key(id), 'finished_at', stamp(now), 'worker', '')
  if status ~= 'succeeded' or redis.call('HGET', job_key(id), 'pinned') ~= '1' then
    redis.call('ZADD', p .. 'retention', stamp(now + keep_s), id)
  end
  emit_state(id)
  redis.call('XTRIM', events_key(id), 'MAXLEN', EVENTS_LEFT)
  announce_end(job_key(id), id)
  leave_batch(id)
end

local function fail(id, code, message, keep_s)
  redis.call('HSET', job_key(id), 'error_code', code, 'error_message', message)
  conclude(id, 'failed', keep_s)
end

-- This job's files answer no further request.
local function withdraw(id)
  local f = redis.call('HMGET', job_key(id), 'result_key', 'content')
  for number, kind in ipairs({'result:', 'content:'}) do
    if f[number] and redis.call('GET', p .. kind .. f[number]) == id then redis.call('DEL', p .. kind .. f[number]) end
  end
end

local function purge(id)
  local f = redis.call('HMGET', job_key(id), 'status', 'owner')
  withdraw(id)
  drop_leases(id)
  set_ready(id, false)
  forget_shards(id)
  redis.call('ZREM', index(f[1]), id)
  redis.call('ZREM', p .. 'all', id)
  redis.call('ZREM', p .. 'owner:' .. f[2], id)
  redis.call('ZREM', p .. 'retention', id)
  redis.call('ZREM', p .. 'webhooks', id)
  leave_batch(id)
  local batch = redis.call('HGET', job_key(id), 'batch')
  if batch then
    redis.call('ZREM', p .. 'batch_jobs:' .. batch, id)
    if redis.call('ZCARD', p .. 'batch_jobs:' .. batch) == 0 then
      redis.call('DEL', batch_key(batch), events_key(batch), p .. 'batch_active:' .. batch)
      redis.call('ZREM', p .. 'webhooks', batch)
    end
  end
  redis.call('DEL', job_key(id), events_key(id))
end

-- The state of a lease: 'held', or why it is held no longer.
local function standing(id, token)
  local f = redis.call('HMGET', job_key(id), 'status', 'token')
  if not f[1] then return 'lost' end
  if shards_of(id) > 1 then
    if f[1] == 'canceled' then return 'canceled' end
    return f[1] == 'running' and redis.call('HEXISTS', p .. 'held:' .. id, token) == 1 and 'held' or 'lost'
  end
  if f[2] ~= token then return 'lost' end
  if f[1] == 'running' then return 'held' end
  if f[1] == 'canceled' then return 'canceled' end
  return 'lost'
end
