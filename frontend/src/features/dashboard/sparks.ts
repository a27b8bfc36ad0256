/** The last ten minutes of the channels on the screen, in buckets of ten seconds. A channel is kept from the moment its row is first seen. */
import { series } from '@/api/client'
import { Ring } from '@/chart/ring'
import { onBatch, onStreaming, serverNow } from '@/live/live.store'

export const SPARK_MS = 600_000
const BUCKET_MS = 10_000
const BUCKETS = SPARK_MS / BUCKET_MS
/** As many as one request may name. */
const TOGETHER = 20
const GATHER_MS = 150
const RETRY_MS = 5_000
const BACKLOG_AFTER_MS = 2_000

const rings = new Map<string, Ring>()
const wanted = new Set<string>()
let timer: ReturnType<typeof setTimeout> | undefined

onBatch((points, times) => {
  for (let i = 0; i < points.length; i += 1) {
    const point = points[i]!
    const ring = rings.get(point.event_public_id)
    if (!ring) continue
    // One tick that stands for many readings over several buckets is a backlog: they are read anew, each in its place.
    if ((point.n ?? 1) > 1 && times[i]! - ring.newest > 2 * BUCKET_MS) {
      wanted.add(point.event_public_id)
      gather(BACKLOG_AFTER_MS)
    }
    ring.push(times[i]!, point.value, point.min ?? point.value, point.max ?? point.value, point.n ?? 1)
  }
})

onStreaming(() => {
  for (const id of rings.keys()) wanted.add(id)
  gather(GATHER_MS)
})

/** The ring of a channel; its history follows shortly. */
export function spark(id: string): Ring {
  let ring = rings.get(id)
  if (!ring) {
    ring = new Ring(BUCKET_MS, BUCKETS + 8)
    rings.set(id, ring)
    wanted.add(id)
    gather(GATHER_MS)
  }
  return ring
}

function gather(afterMs: number): void {
  timer ??= setTimeout(() => {
    timer = undefined
    void read()
  }, afterMs)
}

async function read(): Promise<void> {
  while (wanted.size) {
    const ids = [...wanted].slice(0, TOGETHER)
    for (const id of ids) wanted.delete(id)
    const to = Math.ceil(serverNow() / BUCKET_MS) * BUCKET_MS
    const from = to - SPARK_MS - BUCKET_MS
    try {
      const answer = await series(ids, { fromUs: from * 1000, toUs: to * 1000 }, BUCKETS + 1)
      for (const part of answer) rings.get(part.event_public_id)?.merge(part, from, to)
    } catch {
      // A small picture is not worth a message of its own; the table's data says whether the backend answers.
      for (const id of ids) wanted.add(id)
      gather(RETRY_MS)
      return
    }
  }
}
