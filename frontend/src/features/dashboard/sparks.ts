/** The last ten minutes of the channels on the screen, in buckets of ten seconds. A channel is kept from the moment its row is first seen. */
import { series } from '@/api/client'
import { Ring } from '@/chart/ring'
import { onBack, onBatch, serverNow } from '@/live/live.store'

export const SPARK_MS = 600_000
const BUCKET_MS = 10_000
const BUCKETS = SPARK_MS / BUCKET_MS
/** As many as one request may name. */
const TOGETHER = 20
const GATHER_MS = 150
const RETRY_MS = 5_000

const rings = new Map<string, Ring>()
const wanted = new Set<string>()
let timer: ReturnType<typeof setTimeout> | undefined

onBatch((points, times) => {
  for (let i = 0; i < points.length; i += 1) {
    const point = points[i]!
    rings.get(point.event_public_id)?.push(times[i]!, point.value, point.min ?? point.value, point.max ?? point.value, point.n ?? 1)
  }
})

onBack(() => {
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
    const to = serverNow()
    const from = to - SPARK_MS
    try {
      const answer = await series(ids, { fromUs: Math.floor(from * 1000), toUs: Math.ceil(to * 1000) }, BUCKETS)
      for (const part of answer) rings.get(part.event_public_id)?.merge(part, from, to)
    } catch {
      // A small picture is not worth a message of its own; the table's data says whether the backend answers.
      for (const id of ids) wanted.add(id)
      gather(RETRY_MS)
      return
    }
  }
}
