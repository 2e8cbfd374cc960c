// The journal of one run, fetched part by part and folded into a state; at most one fetch at a time.

import { getJson } from '../lib/api.js'
import { emptyState, foldEvents } from './state.js'

const ACTIVE_POLL_MS = 2_000
const RETRY_MS = 5_000

/**
 * Watch a run. `onChange(feed)` is called after every fetch that brought something.
 *
 * `feed.look()` fetches what is new, as when the server says that there is something; while the run is trained it is
 * also done every two seconds, because messages get lost and other programs train too. Nothing is fetched in a hidden
 * tab. `feed.close()` ends it.
 */
export function watchRun(run, onChange) {
  const feed = {
    run,
    state: emptyState(),
    active: false,
    files: [],
    /** Whether all that was there at first has been read: what comes after it is news. */
    caughtUp: false,
    /** Notes that came with messages; the journal has them too, unless the disk is full. */
    told: [],
    /** Why the last fetch failed, null when it did not. */
    error: null,
    look,
    close
  }
  let offset = 0
  let began = null
  let timer = null
  let fetching = false
  let again = false
  let closed = false

  async function look() {
    if (closed || document.hidden) return
    if (fetching) {
      again = true
      return
    }
    fetching = true
    clearTimeout(timer)
    try {
      do {
        again = false
        while (await fetchPart()) if (closed) return
      } while (again)
      feed.error = null
      feed.caughtUp = true
    } catch (error) {
      feed.error = error
      if (error.status === 404) feed.active = false
    } finally {
      fetching = false
    }
    if (closed) return
    onChange(feed)
    const gone = feed.error?.status === 404
    if (feed.error && !gone) timer = setTimeout(look, RETRY_MS)
    else if (feed.active) timer = setTimeout(look, ACTIVE_POLL_MS)
  }

  /** Whether there is more to fetch at once. */
  async function fetchPart() {
    const part = await getJson(`/runs/${encodeURIComponent(run)}/journal?offset=${offset}`)
    if (closed) return false
    feed.active = part.active
    feed.files = part.files ?? []
    const other = part.offset < offset || (began !== null && offset > 0 && part.began !== began)
    began = part.began
    if (other) {
      // The folder was deleted and another run of its name begun.
      offset = 0
      feed.state = emptyState()
      return true
    }
    offset = part.offset
    foldEvents(feed.state, part.lines)
    return part.more
  }

  function onVisible() {
    if (!document.hidden) look()
  }

  function close() {
    closed = true
    clearTimeout(timer)
    document.removeEventListener('visibilitychange', onVisible)
  }

  document.addEventListener('visibilitychange', onVisible)
  look()
  return feed
}
