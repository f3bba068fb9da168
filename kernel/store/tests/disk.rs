//! A disk that can be cut off, filled and broken. It keeps apart what was written and what is durable.
//!
//! Like Linux, it is unkind after a failed sync: what was waiting still reads as written, but counts as clean and never
//! reaches the disk unless written again.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use pintle_store::{Disk, Spending};
use redb::StorageBackend;

use crate::random::Random;

/// Hardware writes this much at once, or not.
const SECTOR: usize = 512;
/// Blocks set aside so that deleting works on a full disk.
const RESERVE: u64 = 256;
/// File systems give out space in these.
const BLOCK: u64 = 4096;

/// Shared by the store and the test that torments it.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Debug, Default)]
struct Sim {
    /// What reads see.
    cached: Vec<u8>,
    /// What is there after a power cut, if nothing of `pending` is.
    durable: Vec<u8>,
    /// Since the last sync, in order.
    pending: Vec<Operation>,
    /// Blocks that take up space.
    used: BTreeSet<u64>,
    /// Blocks there are.
    capacity: Option<u64>,
    /// Blocks set aside.
    reserve: u64,
    counts: Counts,
    plan: Plan,
    off: bool,
}

#[derive(Debug, Clone)]
enum Operation {
    Write(u64, Vec<u8>),
    SetLen(usize),
}

/// Operations seen so far.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    syncs: u64,
}

/// What is to go wrong. Numbers count from one, from the moment of the plan.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The power goes when this sync begins; this decides what of the unsynced writes survives.
    pub cut_at_sync: Option<(u64, Random)>,
    /// This read, write or sync fails, once.
    pub fail_read: Option<u64>,
    pub fail_write: Option<u64>,
    pub fail_sync: Option<u64>,
}

impl SimDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on, go wrong like this; counting starts anew.
    pub fn plan(&self, plan: Plan) {
        let mut sim = self.0.lock();
        sim.plan = plan;
        sim.counts = Counts::default();
    }

    /// Room for this many bytes altogether; `None`: without end.
    pub fn limit(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes.map(|bytes| bytes / BLOCK);
    }

    pub fn used_bytes(&self) -> u64 {
        self.0.lock().used.len() as u64 * BLOCK
    }

    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    /// A disk with what this one holds durably, and power.
    pub fn after_power_cut(&self) -> SimDisk {
        let sim = self.0.lock();
        Self::holding(sim.durable.clone())
    }

    /// A disk with this content.
    pub fn holding(content: Vec<u8>) -> SimDisk {
        let used = (0..(content.len() as u64).div_ceil(BLOCK)).collect();
        let sim = Sim { cached: content.clone(), durable: content, used, ..Sim::default() };
        SimDisk(Arc::new(Mutex::new(sim)))
    }
}

impl Disk for SimDisk {
    fn backend(&self) -> io::Result<Arc<dyn StorageBackend>> {
        self.0.lock().check_power()?;
        Ok(Arc::new(self.clone()))
    }

    fn spend(&self, spending: Spending) -> io::Result<()> {
        let mut sim = self.0.lock();
        let room = sim.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(sim.used.len() as u64));
        let wanted = match spending {
            Spending::Freely => RESERVE,
            Spending::Reserve => 0,
        };
        if room < wanted {
            sim.reserve = 0;
            return Err(io::ErrorKind::StorageFull.into());
        }
        sim.reserve = wanted;
        Ok(())
    }

    fn release(&self) {}
}

impl Sim {
    fn check_power(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// What a power cut leaves: some of the pending operations, each whole or in sectors, in order where they overlap or not.
    fn cut_power(&mut self, mut random: Random) {
        self.off = true;
        let mut pending = std::mem::take(&mut self.pending);
        let keep = random.below(5);
        match keep {
            0 => pending.clear(),
            1 => {}
            2 => pending.truncate(random.below(pending.len() as u64 + 1) as usize),
            _ => {
                let one_in = 2 + random.below(6);
                pending.retain(|_| (keep == 3) != random.one_in(one_in));
                shuffle(&mut pending, &mut random);
            }
        }
        for operation in pending {
            let torn = keep >= 2 && random.one_in(4);
            match operation {
                Operation::Write(offset, data) if torn => {
                    tear(&mut self.durable, offset as usize, &data, &mut random);
                }
                operation => apply(&mut self.durable, &operation),
            }
        }
    }

    fn take_space(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let Some(capacity) = self.capacity else {
            self.used.extend(offset / BLOCK..(offset + len as u64).div_ceil(BLOCK));
            return Ok(());
        };
        for block in offset / BLOCK..(offset + len as u64).div_ceil(BLOCK) {
            if !self.used.contains(&block) {
                if self.used.len() as u64 + self.reserve >= capacity {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.used.insert(block);
            }
        }
        Ok(())
    }
}

fn apply(content: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::SetLen(len) => content.resize(*len, 0),
        Operation::Write(offset, data) => write(content, *offset as usize, data),
    }
}

fn write(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

/// Some sectors of the write, and not others.
fn tear(content: &mut Vec<u8>, offset: usize, data: &[u8], random: &mut Random) {
    for (index, sector) in data.chunks(SECTOR).enumerate() {
        if random.one_in(2) {
            write(content, offset + index * SECTOR, sector);
        }
    }
}

fn shuffle(operations: &mut [Operation], random: &mut Random) {
    for index in (1..operations.len()).rev() {
        operations.swap(index, random.below(index as u64 + 1) as usize);
    }
}

fn broken() -> io::Error {
    io::Error::other("the disk is broken (simulated)")
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        let sim = self.0.lock();
        sim.check_power()?;
        Ok(sim.cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.check_power()?;
        sim.counts.reads += 1;
        if sim.plan.fail_read == Some(sim.counts.reads) {
            return Err(broken());
        }
        let start = offset as usize;
        let Some(bytes) = sim.cached.get(start..start + out.len()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.check_power()?;
        sim.used.split_off(&len.div_ceil(BLOCK));
        let operation = Operation::SetLen(len as usize);
        apply(&mut sim.cached, &operation);
        sim.pending.push(operation);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.check_power()?;
        sim.counts.syncs += 1;
        if let Some((sync, random)) = sim.plan.cut_at_sync.clone()
            && sync == sim.counts.syncs
        {
            sim.cut_power(random);
            return Err(io::Error::other("the power went"));
        }
        let pending = std::mem::take(&mut sim.pending);
        if sim.plan.fail_sync == Some(sim.counts.syncs) {
            return Err(broken());
        }
        pending.iter().for_each(|operation| apply(&mut sim.durable, operation));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.check_power()?;
        sim.counts.writes += 1;
        if sim.plan.fail_write == Some(sim.counts.writes) {
            return Err(broken());
        }
        sim.take_space(offset, data.len())?;
        let operation = Operation::Write(offset, data.to_vec());
        apply(&mut sim.cached, &operation);
        sim.pending.push(operation);
        Ok(())
    }
}
