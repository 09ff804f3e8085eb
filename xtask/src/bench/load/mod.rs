//! `cargo xtask bench load`
use anyhow::Result;
use clap::Args;
/// x
#[derive(Debug, Args)]
pub(crate) struct Load {}
impl Load {
    pub(crate) fn run(&self) -> Result<()> {
        Ok(())
    }
}
