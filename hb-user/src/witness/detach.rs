//! Taking the kernel half away.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{Lock, WitnessError, prepare::files};
use crate::{
    config::Config,
    kernel::{WITNESS_OBJECT, Witness, WitnessMaps, remove_pins},
};

/// What was taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detached {
    /// Nothing was there.
    Nothing,
    /// All of it.
    Everything,
    /// These clusters; others are still there.
    Clusters(Vec<String>),
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self {
            Self::Nothing => return writeln!(f, "nothing was attached"),
            Self::Everything => "this machine votes in no cluster any more".to_owned(),
            Self::Clusters(names) => {
                format!("this machine votes no more in: {}", names.join(", "))
            }
        };
        writeln!(
            f,
            "detached: {whose}\nwhat it promised is forgotten: after `hb witness` it votes again, but \
             not before every such promise has run out, some 2.4 s; a service whose node dies \
             meanwhile waits until then"
        )
    }
}

/// Takes away everything pinned at `pins`.
///
/// # Errors
///
/// [`WitnessError`].
pub fn everything(pins: &Path) -> Result<Detached, WitnessError> {
    if !pins.exists() {
        return Ok(Detached::Nothing);
    }
    let _lock = Lock::take(pins)?;
    remove_pins(pins)?;
    Ok(Detached::Everything)
}

/// Takes away the clusters of the configurations, and everything with the last of them.
///
/// # Errors
///
/// [`WitnessError`].
pub fn clusters(configs: &[PathBuf], pins: &Path) -> Result<Detached, WitnessError> {
    let configs: Vec<Config> =
        files(configs)?.iter().map(|file| Config::load(file)).collect::<Result<_, _>>()?;
    let _lock = Lock::take(pins)?;
    let Some(maps) = WitnessMaps::open(pins)? else { return Ok(Detached::Nothing) };
    let known = maps.clusters()?;
    let mut leaving = Vec::new();
    for config in &configs {
        let id = config.cluster_id();
        let name = config.cluster.name.to_string();
        match known.iter().find(|(known, _)| *known == id) {
            Some(&(_, home)) if !leaving.iter().any(|&(other, _)| other == id) => {
                leaving.push((id, home));
            }
            Some(_) => {}
            None => return Err(WitnessError::Unknown(name)),
        }
    }
    if leaving.len() == known.len() {
        remove_pins(pins)?;
        return Ok(Detached::Everything);
    }
    let mut witness = Witness::open(WITNESS_OBJECT, pins)?;
    for &(id, _) in &leaving {
        witness.dismiss(id)?;
    }
    witness.quiesce()?;
    for &(_, home) in &leaving {
        witness.clear_members(home)?;
    }
    let names = configs.iter().map(|config| config.cluster.name.to_string()).collect();
    Ok(Detached::Clusters(names))
}
