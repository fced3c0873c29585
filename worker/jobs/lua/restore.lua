-- ARGV: id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idempotency key or '', its lifetime,
-- result key, created_at, pinned, status ('queued' or final), finished_at, kept_from, keep_s, retention_s, result or
-- '', error code or '', error message, warnings as JSON or '',
-- price as JSON or '', shards or '', options as JSON or ''
-- Restores the record of a job that the broker has lost (1). Once the records are complete, a request on disk without a
-- record is just being submitted, or was refused. An existing record is not changed (0), unless the disk has an outcome
-- that the broker does not know (2), because clients may have been told of it.
local _, id, kind, owner, spec, model_id, model_sha256, digest, request_digest, idem, idem_s, result_key, created_at,
  pinned, status, finished_at, kept_from, keep_s, retention_s, result, code, message, warnings, price, shards,
  options = unpack(ARGV)
local known = redis.call('HGET', job_key(id), 'status')
if known then
  local outcome = status == 'failed' or status == 'canceled' or status == 'expired'
  local open = known == 'queued' or known == 'running'
  if not outcome or not (open or (known == 'succeeded' and status == 'expired')) then return 0 end
  withdraw(id)
  if status ~= 'canceled' then redis.call('HSET', job_key(id), 'token', '') end -- the worker of a canceled job is told so
else
  if is_complete() then return 0 end
  insert(id, kind, owner, spec, model_id, model_sha256, digest, result_key, created_at, price, shards,
    options)
  local left_s = math.floor(idem_s - (now - created_at))
  if left_s > 0 then remember(id, idem, request_digest, left_s, '') end
  if pinned == '1' then redis.call('HSET', job_key(id), 'pinned', '1') end
  if status == 'queued' then return 1 end
end

finished_at, kept_from = tonumber(finished_at), tonumber(kept_from)
keep_s, retention_s = tonumber(keep_s), tonumber(retention_s)
if code ~= '' then redis.call('HSET', job_key(id), 'error_code', code, 'error_message', message) end
if result ~= '' then redis.call('HSET', job_key(id), 'result', result) end
if warnings ~= '' then redis.call('HSET', job_key(id), 'warnings', warnings) end
if status == 'succeeded' then
  redis.call('SET', p .. 'result:' .. result_key, id)
  if pinned ~= '1' then redis.call('HSET', job_key(id), 'expires_at', stamp(kept_from + retention_s)) end
end
conclude(id, status, keep_s - (now - kept_from))
redis.call('HSET', job_key(id), 'finished_at', stamp(finished_at))
return known and 2 or 1
