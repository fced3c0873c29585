-- ARGV: list of wake-ups, hash and index of wake-ups in delivery, wake_up_after_s, max_lost, record_s, batch, lease_s,
-- away_s, message for a job that lost too many leases
local _, wake_ups, under_way, under_way_index, wake_up_after_s, max_lost, record_s, batch, lease_s, away_s,
  message = unpack(ARGV)
record_s, max_lost, batch = tonumber(record_s), tonumber(max_lost), tonumber(batch)
local requeued, crashed, woken, expired, purged = {}, {}, {}, {}, {}

local function lost(id)
  redis.call('HINCRBY', p .. 'tally', 'leases_lost', 1)
  return redis.call('HINCRBY', job_key(id), 'lost', 1)
end

-- If no sweep ran for away_s, this server was down or frozen, and no worker could renew its lease. Expired leases are
-- then extended once, by two heartbeats, within which a running worker renews them.
local swept = redis.call('GET', p .. 'swept')
local away = swept and now - tonumber(swept) > tonumber(away_s)
redis.call('SET', p .. 'swept', stamp(now))

for _, member in ipairs(redis.call('ZRANGE', p .. 'leases', '-inf', stamp(now), 'BYSCORE', 'LIMIT', 0, batch)) do
  local id, token = string.match(member, '^([^/]+)/(.+)$')
  id = id or member
  if token then
    local held = p .. 'held:' .. id
    local shard = redis.call('HGET', held, token)
    if not shard then
      drop_lease(id, member) -- of a job that has ended
    elseif away and redis.call('HSETNX', p .. 'shards:' .. id, 'spared:' .. token, '1') == 1 then
      redis.call('ZADD', p .. 'leases', stamp(now + tonumber(lease_s) / 2), member)
    else
      lost(id)
      if redis.call('HINCRBY', p .. 'shards:' .. id, 'lost:' .. shard, 1) >= max_lost then
        redis.call('HSET', job_key(id), 'token', '')
        fail(id, 'worker_crashed', message, record_s)
        redis.call('HINCRBY', p .. 'tally', 'worker_crashed', 1)
        table.insert(crashed, id)
      else
        give_back(id, token)
        table.insert(requeued, id)
      end
    end
  elseif away and redis.call('HSETNX', job_key(id), 'spared', '1') == 1 then
    redis.call('ZADD', p .. 'leases', stamp(now + tonumber(lease_s) / 2), id)
  elseif lost(id) - forgiven(id) >= max_lost then
    redis.call('HSET', job_key(id), 'token', '') -- its worker has lost the lease without ending the job
    fail(id, 'worker_crashed', message, record_s)
    redis.call('HINCRBY', p .. 'tally', 'worker_crashed', 1)
    table.insert(crashed, id)
  else
    requeue(id)
    table.insert(requeued, id)
  end
end

-- Wake-ups whose worker died; their jobs are found without them.
for _, tag in ipairs(redis.call('ZRANGE', under_way_index, '-inf', stamp(now - 60), 'BYSCORE', 'LIMIT', 0, batch)) do
  redis.call('HDEL', under_way, tag)
  redis.call('ZREM', under_way_index, tag)
end

-- A wake-up only says that a job waits, so only their number matters. There are never more of them than possible
-- claims, so that their list cannot grow without bound.
local queued = redis.call('ZRANGE', index('queued'), 0, batch - 1)
local missing = redis.call('ZCARD', index('queued')) - redis.call('LLEN', wake_ups)
local waiting = {unpack(queued)} -- one entry for each possible claim
local heads = {queued[1]}
for _, id in ipairs(redis.call('ZRANGE', p .. 'divided', 0, batch - 1)) do
  local open = redis.call('ZCARD', p .. 'open:' .. id)
  if open > 0 then
    if redis.call('HGET', job_key(id), 'status') == 'running' then
      table.insert(heads, id)
      missing = missing + 1
      table.insert(waiting, id)
    end
    missing = missing + open - 1
    for _ = 2, math.min(open, batch) do table.insert(waiting, id) end
    set_ready(id, true)
  end
end
for _, id in ipairs(queued) do -- a service of an older version may have submitted it
  if not redis.call('ZSCORE', p .. 'ready:' .. redis.call('HGET', job_key(id), 'owner'), id) then set_ready(id, true) end
end
for _, id in ipairs(heads) do
  if #woken == 0 and now - tonumber(redis.call('HGET', job_key(id), 'queued_at')) >= tonumber(wake_up_after_s) then
    for number = 1, math.min(missing, batch, #waiting) do table.insert(woken, waiting[number]) end
  end
end

for _, id in ipairs(redis.call('ZRANGE', p .. 'retention', '-inf', stamp(now), 'BYSCORE', 'LIMIT', 0, batch)) do
  if redis.call('HGET', job_key(id), 'status') == 'succeeded' then
    withdraw(id)
    move(id, 'expired')
    redis.call('ZADD', p .. 'retention', stamp(now + record_s), id)
    emit_state(id)
    table.insert(expired, id)
  else
    purge(id)
    table.insert(purged, id)
  end
end
return {requeued, crashed, woken, expired, purged}
