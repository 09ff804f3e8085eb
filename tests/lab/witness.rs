//! The third machine of the lab, which only votes.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Lab, addresses::Machine, disk::Plug, guard};

impl Lab {
    /// Returns whether the lab has a witness.
    #[must_use]
    pub fn has_witness(&self) -> bool {
        self.machines.contains_key(&Machine::Witness)
    }

    /// Has the kernel half of the witness attached, over what it still has pinned. The first start
    /// says that the machine never voted before, as an operator would.
    ///
    /// # Errors
    ///
    /// If there is no witness or no `hb` binary, or with what `hb witness` said.
    pub fn start_witness(&self) -> Result<()> {
        self.run_witness(&["--confirm"])
    }

    /// Has the witness read its file again, over what it still has pinned.
    ///
    /// # Errors
    ///
    /// As [`Lab::start_witness`].
    pub fn reload_witness(&self) -> Result<()> {
        self.run_witness(&["--wait", "0"])
    }

    /// Restarts the witness as a machine: nothing is pinned any more, what is on its disk stays.
    ///
    /// # Errors
    ///
    /// As [`Lab::start_witness`].
    pub fn restart_witness(&self) -> Result<()> {
        self.run_witness(&["--detach"])?;
        guard::remove_path(&self.pins(Machine::Witness))?;
        self.run_witness(&["--wait", "0"])
    }

    /// Returns what `hb witness --status` prints.
    ///
    /// # Errors
    ///
    /// As [`Lab::start_witness`].
    pub fn witness_status(&self) -> Result<String> {
        let output = self.witness_command(&["--status"])?.output().context("cannot run hb")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run_witness(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.witness_command(arguments)?;
        let plug = self.disk(Machine::Witness).map(|disk| disk.plug(&mut command)).transpose()?;
        let running = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run hb witness")?;
        plug.map_or(Ok(()), Plug::serve)?;
        let output = running.wait_with_output().context("cannot wait for hb witness")?;
        ensure!(
            output.status.success(),
            "hb witness {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    fn witness_command(&self, arguments: &[&str]) -> Result<Command> {
        let witness = self.machines.get(&Machine::Witness).context("this lab has no witness")?;
        let hb = self.options.hb.as_ref().context("this lab has no hb binary")?;
        let mut command = witness.command(hb)?;
        command
            .arg("witness")
            .arg("--config")
            .arg(self.files.of(Machine::Witness))
            .arg("--pins")
            .arg(self.pins(Machine::Witness))
            .args(arguments)
            .stdin(Stdio::null());
        Ok(command)
    }
}
