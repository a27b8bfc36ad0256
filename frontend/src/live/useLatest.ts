/** The newest reading of one channel, read once per animation frame and only when it has changed. */
import { onScopeDispose, shallowRef, watch, type ShallowRef } from 'vue'
import { latest } from './live.store'
import type { Reading } from './latest'

const watchers = new Set<() => void>()
let frame = 0

function run(): void {
  frame = requestAnimationFrame(run)
  for (const watcher of watchers) watcher()
}

/** Calls `draw` in every animation frame until the component goes. One loop for all who draw. */
export function onFrame(draw: () => void): void {
  watchers.add(draw)
  if (watchers.size === 1) frame = requestAnimationFrame(run)
  onScopeDispose(() => {
    watchers.delete(draw)
    if (watchers.size === 0) cancelAnimationFrame(frame)
  })
}

export function useLatest(id: () => string): { reading: ShallowRef<Reading | null> } {
  const reading = shallowRef<Reading | null>(latest.read(id()))
  let seen = latest.versionOf(id())
  const look = (): void => {
    const version = latest.versionOf(id())
    if (version === seen) return
    seen = version
    reading.value = latest.read(id())
  }
  onFrame(look)
  watch(id, (now) => {
    seen = latest.versionOf(now)
    reading.value = latest.read(now)
  })
  return { reading }
}
