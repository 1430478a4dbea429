//! From a campaign file to a journal of judged runs.
//!
//! `campaign.toml` → [`CampaignFile`] → [`plan::expand`] → [`engine::run`] →
//! `journal.jsonl`. A run directory is self-contained; [`engine::resume`]
//! goes on where a killed campaign stopped.

mod calibrate;
mod driver;
mod duration;
pub mod engine;
mod error;
mod execute;
mod file;
mod host_facts;
pub mod journal;
pub mod plan;
mod rundir;
mod stop;
mod timing;
mod workload;

pub use calibrate::{Calibration, calibrate};
pub use error::CampaignError;
pub use file::{CampaignFile, FaultsSection, TestbedSection};
pub use rundir::RunDir;
pub use stop::Stop;
pub use timing::resolve;
pub use workload::WorkloadSection;
