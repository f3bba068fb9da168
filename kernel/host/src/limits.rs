//! Every limit of the module host, in one place. What a Module object may set is in `ModuleLimits`; the rest is fixed.

use std::time::Duration;

/// The largest module accepted, in bytes of WebAssembly.
pub const WASM_BYTES_MAX: usize = 32 << 20;
/// Address space reserved for an instance, and the most memory it can have, in bytes.
pub const INSTANCE_MEMORY_BYTES_MAX: usize = 64 << 20;
/// Live instances of all modules together, both generations of a swap included.
pub const INSTANCES_MAX: u32 = 1024;
/// How often the deadline clock ticks. Deadlines are rounded up to it.
pub const EPOCH_TICK: Duration = Duration::from_millis(5);
/// What a guest may send in one slice, in bytes.
pub const PUMP_BYTES_MAX: usize = 16 << 20;
/// Messages a guest may send in one slice.
pub const PUMP_MESSAGES_MAX: usize = 4096;
/// The largest single message from a guest, in 8-byte words.
pub const MESSAGE_WORDS_MAX: usize = PUMP_BYTES_MAX / 8;
/// How often words of one message may be visited before it counts as an amplification attack.
pub const TRAVERSAL_WORDS_MAX: usize = 2 * MESSAGE_WORDS_MAX;
/// How deeply a guest's message may nest.
pub const NESTING_MAX: i32 = 32;
/// Slices in a row a guest may ask for without answering anything.
pub const IDLE_SLICES_MAX: u32 = 1000;
/// How long the host waits for an RPC answer that no slice is working on.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Log lines a module may write in a second; the rest is counted and dropped.
pub const LOG_LINES_PER_SECOND_MAX: u32 = 100;
/// The longest log line kept, in bytes.
pub const LOG_LINE_BYTES_MAX: usize = 4096;
/// Random bytes a guest may ask for at once.
pub const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// What a batch of reconcile requests may weigh, in bytes of JSON.
pub const RECONCILE_BYTES_MAX: usize = 4 << 20;
/// Writes in one `ObjectWriter.write` call or one reconcile result.
pub const WRITES_PER_CALL_MAX: usize = 1000;
/// Watches that one module may hold through its readers.
pub const MODULE_WATCHES_MAX: u32 = 64;
/// Timers that one module may have running.
pub const MODULE_TIMERS_MAX: u32 = 256;
/// How much of its share of the processor a module may have saved up, in time.
pub const CPU_BURST: Duration = Duration::from_secs(1);
/// The longest that a module waits for its share of the processor: less than callers wait for an answer.
pub const CPU_DEBT_MAX: Duration = Duration::from_secs(20);
/// The first and the longest pause before a faulted module is started again.
pub const RESTART_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
/// After a fault by taking too much (time, memory, calls) the pause is at least this many times the deadline of a slice.
pub const GREED_PAUSE_FACTOR: u32 = 9;
/// How much the threads of third-party controllers yield to the API and to built-in modules, as `nice` counts.
pub const THIRD_PARTY_NICENESS: i32 = 5;
/// Bytes of an answer that cost as much of the call rate as a call.
pub const CALL_BYTES: usize = 64 << 10;
/// How long an instance must have run before its next fault counts as the first again.
pub const RESTART_RESET_AFTER: Duration = Duration::from_secs(120);
/// Faults of a new digest, before it ever answered a call, after which the last good one comes back.
pub const ROLLBACK_AFTER_FAULTS: u32 = 3;
/// The first and the longest pause before a failing key is tried again.
pub const KEY_BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(60));
/// How often a Module's status is written, at most.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a swap waits for the old instance's calls.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Versions of a module that its history holds, where it does not say how many.
pub const HISTORY_DEFAULT: usize = 10;
/// Instances of one stateless module that answer calls at the same time.
pub const STATELESS_INSTANCES: usize = 4;

const _: () = assert!(MESSAGE_WORDS_MAX * 8 <= INSTANCE_MEMORY_BYTES_MAX, "a message must fit the guest that sends it");
const _: () = assert!(RECONCILE_BYTES_MAX * 4 <= INSTANCE_MEMORY_BYTES_MAX, "a batch must fit the guest that parses it");

/// What one module may use. Set by `spec.limits` of the Module object, within the maxima above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleLimits {
    /// Linear memory, in bytes.
    pub memory_bytes: usize,
    /// One admission call.
    pub admission_deadline: Duration,
    /// One scheduler call.
    pub scheduler_deadline: Duration,
    /// One slice on the RPC lane.
    pub slice_deadline: Duration,
    /// Calls on capabilities, a second.
    pub calls_per_second: u32,
    /// Writes to objects, a second.
    pub writes_per_second: u32,
    /// Parameters and results of capability calls in flight, in bytes.
    pub bytes_in_flight: usize,
    /// One message, in either direction, in bytes.
    pub message_bytes: usize,
    /// Calls on capabilities at once, beyond `calls_per_second`.
    pub burst: u32,
    /// Watches and timers held at once.
    pub capabilities: u32,
    /// Keys in work at once.
    pub workers: usize,
    /// Processor time over time, all instances together, in thousandths of one processor; `u32::MAX`: as much as there is.
    pub cpu_millicores: u32,
}

impl Default for ModuleLimits {
    fn default() -> Self {
        Self {
            memory_bytes: INSTANCE_MEMORY_BYTES_MAX,
            admission_deadline: Duration::from_millis(50),
            scheduler_deadline: Duration::from_millis(250),
            slice_deadline: Duration::from_millis(100),
            calls_per_second: 5_000,
            writes_per_second: 2_000,
            bytes_in_flight: 32 << 20,
            message_bytes: PUMP_BYTES_MAX,
            burst: 0,
            capabilities: MODULE_WATCHES_MAX + MODULE_TIMERS_MAX,
            workers: 512,
            cpu_millicores: u32::MAX,
        }
    }
}
