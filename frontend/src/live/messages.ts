/** What the stream socket says to a browser. */
export interface Datapoint {
  event_public_id: string
  /** RFC 3339, UTC: when `value` was sampled. */
  timestamp: string
  value: number
  /** Extremes and count of the readings since the tick before. */
  min?: number | null
  max?: number | null
  n?: number | null
  experiment_public_id?: string | null
}

export interface Preview {
  event_public_id: string
  timestamp: string
  value: number
}

export interface SourceStatus {
  public_id: string
  name: string
  state: 'live' | 'offline' | 'never_seen'
  lag_ms: number | null
}

export interface StatusMessage {
  type: 'status'
  server_time: string
  storing: boolean
  stored_per_s: number
  lag_ms: number | null
  refused: number
  sources: SourceStatus[]
}

export type StreamMessage =
  | { type: 'connected'; server_time: string; plant?: string | null }
  | { type: 'snapshot'; datapoints: Datapoint[] }
  | { type: 'datapoints_batch'; datapoints: Datapoint[]; previews?: Preview[] }
  | StatusMessage
  | { type: 'config'; what: string }
  | { type: 'pong' }
