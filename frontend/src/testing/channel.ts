import type { Channel } from '@/api/types'

/** A channel for tests; what matters to a test is named by it. */
export function channel(change: Partial<Channel> = {}): Channel {
  return {
    public_id: change.name ?? 'a', name: 'a', type: 'sensor', unit: '%', min_value: null, max_value: null, decimals: 1, expected_interval_ms: 1000,
    source: 's', instance: null, channel_key: null, quality: null, created_on: '2026-11-23T10:00:00Z', changed_on: '2026-11-23T10:00:00Z', version: 1,
    ...change,
  }
}
