-- ARGV: id, kind, owner, spec, model_id, model_sha256, digest, result key, created_at, retention_s, result or ''
-- Puts back a job that the broker has forgotten; whoever is known is left alone.
local _, id, kind, owner, spec, model_id, model_sha256, digest, result_key, created_at, retention_s, result =
  unpack(ARGV)
if redis.call('EXISTS', job_key(id)) == 1 then return 0 end
insert(id, kind, owner, spec, model_id, model_sha256, digest, result_key, created_at)
if result ~= '' then
  redis.call('HSET', job_key(id), 'result', result, 'expires_at', stamp(now + tonumber(retention_s)))
  conclude(id, 'succeeded', tonumber(retention_s))
  redis.call('SET', p .. 'result:' .. result_key, id)
end
return 1
