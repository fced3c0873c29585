-- ARGV: id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idempotency key or '', its lifetime,
-- result key, created_at, pinned, status ('queued' or final), finished_at, keep_s, retention_s, result or '',
-- error code or '', error message
-- Puts back a job that the broker has forgotten; whoever is known is left alone. Once the records are whole, a request on
-- disk that has no record is one that is just being submitted, or was refused.
local _, id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idem, idem_s, result_key, created_at,
  pinned, status, finished_at, keep_s, retention_s, result, code, message = unpack(ARGV)
if whole() or redis.call('EXISTS', job_key(id)) == 1 then return 0 end
insert(id, kind, owner, spec, model_id, model_sha256, digest, result_key, created_at)
remember(id, idem, request_digest, idem_s)
if pinned == '1' then redis.call('HSET', job_key(id), 'pinned', '1') end
if status == 'queued' then return 1 end

finished_at, keep_s, retention_s = tonumber(finished_at), tonumber(keep_s), tonumber(retention_s)
if code ~= '' then redis.call('HSET', job_key(id), 'error_code', code, 'error_message', message) end
if result ~= '' then redis.call('HSET', job_key(id), 'result', result) end
if status == 'succeeded' then
  redis.call('SET', p .. 'result:' .. result_key, id)
  if pinned ~= '1' then redis.call('HSET', job_key(id), 'expires_at', stamp(finished_at + retention_s)) end
end
conclude(id, status, keep_s - (now - finished_at))
redis.call('HSET', job_key(id), 'finished_at', stamp(finished_at))
return 1
