-- ARGV: id, token, lease_s, progress as JSON or '', '1' if the next attempt would begin further on than this one did
local _, id, token, lease_s, progress, kept = unpack(ARGV)
local answer = standing(id, token)
if answer ~= 'held' then return answer end
redis.call('ZADD', p .. 'leases', stamp(now + tonumber(lease_s)), lease_member(id, token))
redis.call('HDEL', job_key(id), 'spared')
if kept == '1' then redis.call('HSET', job_key(id), 'forgiven', redis.call('HGET', job_key(id), 'lost') or '0') end
if shards_of(id) > 1 then
  -- A shard reports its own frames and those of the whole job; clients see the sum.
  redis.call('HDEL', p .. 'shards:' .. id, 'spared:' .. token)
  local shard = redis.call('HGET', p .. 'held:' .. id, token)
  if progress == '' or shard == SEAL then return 'held' end
  local report = cjson.decode(progress)
  local sum = count_frames(id, shard, report.frame)
  local started_at = tonumber(redis.call('HGET', job_key(id), 'started_at'))
  report.frame, report.fraction = sum, report.frames > 0 and sum / report.frames or 0
  report.eta_s = sum > 0 and tonumber(string.format('%.1f', (now - started_at) / sum * (report.frames - sum))) or nil
  progress = cjson.encode(report)
end
if progress ~= '' then
  redis.call('HSET', job_key(id), 'progress', progress)
  emit(id, 'progress', progress)
end
return 'held'
