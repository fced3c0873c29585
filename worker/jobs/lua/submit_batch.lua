-- ARGV: id, owner, request_digest, labels as JSON or '', webhook or '', max_queue, write_s, created_at or '', jobs as JSON
-- Inserts all jobs of a batch, or none. Without created_at it only asks: 'free' and the time say that as many jobs as
-- the JSON holds would be accepted. Each job is a list: id, kind, spec, model_id, model_sha256, digest, result key,
-- price, shards, options; every entry is a text.
local _, id, owner, request_digest, labels, webhook, max_queue, write_s, created_at, jobs = unpack(ARGV)
if not is_complete() then return {'unknown', ''} end
local known = redis.call('HGET', batch_key(id), 'digest')
if known then return {known == request_digest and 'existing' or 'mismatch', ''} end
jobs = cjson.decode(jobs)
local waiting = redis.call('ZCARD', index('queued'))
if waiting + #jobs > tonumber(max_queue) then return {'full', tostring(waiting)} end
if created_at == '' then return {'free', stamp(now)} end
if now - tonumber(created_at) > tonumber(write_s) then return {'late', ''} end
for _, f in ipairs(jobs) do
  insert(f[1], f[2], owner, f[3], f[4], f[5], f[6], f[7], created_at, f[8], f[9], f[10])
end
keep_batch(id, owner, request_digest, labels, webhook, created_at)
return {'created', ''}
