import type { Channel } from '@/api/types'

/** A channel for tests; what matters to a test is named by it. */
export function channel(change: Partial<Channel> = {}): Channel {
  return {
    public_id: change.name ?? 'a', name: 'a', type: 'sensor', unit: '%', description: '', path: '', tags: [], min_value: null, max_value: null,
    limit_lolo: null, limit_lo: null, limit_hi: null, limit_hihi: null, dead_band: null, decimals: 1, colour: null, expected_interval_ms: 1000,
    raw_retention_days: null, statistics_retention_days: null, critical: false, source: 's', instance: null, channel_key: null, quality: null,
    created_on: '2026-11-23T10:00:00Z', changed_on: '2026-11-23T10:00:00Z', deleted_on: null, version: 1, ...change,
  }
}
