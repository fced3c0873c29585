-- ARGV: id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idempotency key or '', its lifetime,
-- result key, reuse, max_queue
local _, id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idem, idem_s, result_key, reuse,
  max_queue = unpack(ARGV)

-- The client of this script repeats it when the connection broke before the answer.
if redis.call('EXISTS', job_key(id)) == 1 then return {'created', id} end

local idem_key = p .. 'idem:' .. idem
local function remember(job)
  if idem == '' then return end
  redis.call('HSET', idem_key, 'job', job, 'digest', request_digest)
  redis.call('EXPIRE', idem_key, idem_s)
end

if idem ~= '' then
  local seen = redis.call('HMGET', idem_key, 'job', 'digest')
  if seen[1] and redis.call('EXISTS', job_key(seen[1])) == 1 then
    if seen[2] ~= request_digest then return {'mismatch', seen[1]} end
    return {'existing', seen[1]}
  end
end

if reuse == '1' then
  local same = redis.call('GET', p .. 'result:' .. result_key)
  if same and redis.call('HGET', job_key(same), 'status') == 'succeeded' then
    remember(same)
    return {'existing', same}
  end
end

local waiting = redis.call('ZCARD', index('queued'))
if waiting >= tonumber(max_queue) then return {'full', tostring(waiting)} end

insert(id, kind, owner, spec, model_id, model_sha256, digest, result_key, stamp(now))
remember(id)
return {'created', id}
