-- ARGV: id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idempotency key or '', its lifetime,
-- result key, reuse, max_queue, created_at or ''
-- Without created_at it only asks: 'free' and the time say that a job would be accepted.
local _, id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idem, idem_s, result_key, reuse,
  max_queue, created_at = unpack(ARGV)

-- A broker that may have lost records must not take the same request twice.
if not whole() then return {'unknown', ''} end

-- The client of this script repeats it when the connection broke before the answer.
if redis.call('EXISTS', job_key(id)) == 1 then return {'created', id} end

if idem ~= '' then
  local seen = redis.call('HMGET', p .. 'idem:' .. idem, 'job', 'digest')
  if seen[1] and redis.call('EXISTS', job_key(seen[1])) == 1 then
    if seen[2] ~= request_digest then return {'mismatch', seen[1]} end
    return {'existing', seen[1]}
  end
end

if reuse == '1' then
  local same = redis.call('GET', p .. 'result:' .. result_key)
  if same and redis.call('HGET', job_key(same), 'status') == 'succeeded' then
    remember(same, idem, request_digest, idem_s)
    return {'existing', same}
  end
end

local waiting = redis.call('ZCARD', index('queued'))
if waiting >= tonumber(max_queue) then return {'full', tostring(waiting)} end
if created_at == '' then return {'free', stamp(now)} end

insert(id, kind, owner, spec, model_id, model_sha256, digest, result_key, created_at)
remember(id, idem, request_digest, idem_s)
return {'created', id}
