-- ARGV: id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idempotency key or '', its lifetime,
-- result key, reuse, max_queue, write_s, created_at or '', price as JSON or '', shards or '',
-- options as JSON or ''
-- Without created_at it only asks: 'free' and the time mean that a job would be accepted. For write_s the key is then
-- bound to the id under which its request is being written to disk. A process with the same request meanwhile gets
-- 'join': it writes and submits under that id too, because the first may have died. A process that comes later gets the
-- id of the abandoned request. So no key has two requests on disk that a rebuilding might restore.
local _, id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idem, idem_s, result_key, reuse,
  max_queue, write_s, created_at, price, shards, options = unpack(ARGV)
write_s = tonumber(write_s)

-- A broker that may have lost records must not accept the same request twice.
if not is_complete() then return {'unknown', ''} end

-- The caller repeats this script if the connection broke before the answer.
if redis.call('EXISTS', job_key(id)) == 1 then return {'created', id} end

-- A request that took longer to write may have been removed by another process.
if created_at ~= '' and now - tonumber(created_at) > write_s then return {'late', ''} end

local left = ''
if idem ~= '' then
  local seen = redis.call('HMGET', p .. 'idem:' .. idem, 'job', 'digest', 'alias', 'since')
  if seen[1] and redis.call('EXISTS', job_key(seen[1])) == 1 then
    if seen[2] ~= request_digest then return {'mismatch', seen[1]} end
    return {seen[3] and 'alias' or 'existing', seen[1]}
  end
  if seen[4] and seen[1] ~= id then
    if now - tonumber(seen[4]) > write_s then
      left = seen[1]
    elseif seen[2] ~= request_digest then
      return {'mismatch', seen[1]}
    else
      return {'join', seen[1], seen[4]}
    end
  end
end

if reuse == '1' then
  local same = redis.call('GET', p .. 'result:' .. result_key)
  if same and redis.call('HGET', job_key(same), 'status') == 'succeeded' then
    remember(same, idem, request_digest, idem_s, '1')
    return {idem == '' and 'existing' or 'alias', same}
  end
end

local waiting = redis.call('ZCARD', index('queued'))
if waiting >= tonumber(max_queue) then return {'full', tostring(waiting)} end
if created_at == '' then
  remember(id, idem, request_digest, idem_s, '')
  if idem ~= '' then redis.call('HSET', p .. 'idem:' .. idem, 'since', stamp(now)) end
  return {'free', stamp(now), left}
end

insert(id, kind, owner, spec, model_id, model_sha256, digest, result_key, created_at, price, shards,
  options)
remember(id, idem, request_digest, idem_s, '')
return {'created', id}
