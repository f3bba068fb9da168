//! One entry of a record, and its bytes: little-endian numbers, and lengths before what they measure.

use crate::RecordError;
use serde::{Deserialize, Serialize};

/// What a record is about; its first line, JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name of the Module object.
    pub module: String,
    /// controller, admission, scheduler or schedulerPlugin.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the component that answered: `sha256:` and 64 hex digits.
    pub digest: String,
    /// Deadline of one call, in milliseconds of processor time.
    pub call_milliseconds: u64,
    /// Linear memory of an instance, in bytes.
    pub memory_bytes: u64,
}

/// One thing that was said to the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When, in milliseconds since 1970.
    pub at_millis: u64,
    /// Which incarnation answered.
    pub generation: u64,
    /// What.
    pub step: Step,
}

/// What was said, and what came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `Module.start`: its parameters, without capabilities.
    Start {
        /// A Cap'n Proto message.
        hello: Vec<u8>,
    },
    /// A call, on whichever lane.
    Call {
        /// Id of the interface.
        interface: u64,
        /// Ordinal of the method.
        method: u16,
        /// A Cap'n Proto message.
        params: Vec<u8>,
        /// What came back.
        outcome: Outcome,
    },
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With results: a Cap'n Proto message.
    Answer(Vec<u8>),
    /// With the guest's own error.
    Error(String),
    /// With the end of the instance, and why.
    Fault(String),
}

const START: u8 = 0;
const ANSWER: u8 = 1;
const ERROR: u8 = 2;
const FAULT: u8 = 3;

impl Entry {
    /// Its bytes, without their length before them.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (tag, interface, method, first, second): (u8, u64, u16, &[u8], &[u8]) = match &self.step {
            Step::Start { hello } => (START, 0, 0, hello, &[]),
            Step::Call { interface, method, params, outcome } => {
                let (tag, second) = match outcome {
                    Outcome::Answer(bytes) => (ANSWER, bytes.as_slice()),
                    Outcome::Error(text) => (ERROR, text.as_bytes()),
                    Outcome::Fault(text) => (FAULT, text.as_bytes()),
                };
                (tag, *interface, *method, params, second)
            }
        };
        out.push(tag);
        out.extend(self.at_millis.to_le_bytes());
        out.extend(self.generation.to_le_bytes());
        out.extend(interface.to_le_bytes());
        out.extend(method.to_le_bytes());
        out.extend((first.len() as u64).to_le_bytes());
        out.extend(first);
        out.extend(second);
    }

    /// From its bytes.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let short = || RecordError::Malformed("an entry ends too early".into());
        let (tag, rest) = bytes.split_first().ok_or_else(short)?;
        let (at_millis, rest) = number(rest).ok_or_else(short)?;
        let (generation, rest) = number(rest).ok_or_else(short)?;
        let (interface, rest) = number(rest).ok_or_else(short)?;
        let (method, rest) = rest.split_first_chunk().map(|(bytes, rest)| (u16::from_le_bytes(*bytes), rest)).ok_or_else(short)?;
        let (length, rest) = number(rest).ok_or_else(short)?;
        let length = usize::try_from(length).map_err(|_| short())?;
        let (first, second) = rest.split_at_checked(length).ok_or_else(short)?;
        let text = || String::from_utf8_lossy(second).into_owned();
        let outcome = match *tag {
            START => return Ok(Self { at_millis, generation, step: Step::Start { hello: first.to_vec() } }),
            ANSWER => Outcome::Answer(second.to_vec()),
            ERROR => Outcome::Error(text()),
            FAULT => Outcome::Fault(text()),
            other => return Err(RecordError::Malformed(format!("there is no kind of entry {other}"))),
        };
        Ok(Self { at_millis, generation, step: Step::Call { interface, method, params: first.to_vec(), outcome } })
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (u64::from_le_bytes(*number), rest))
}
