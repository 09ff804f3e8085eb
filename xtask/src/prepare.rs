//! What has to be there before a lab can be set up: privileges and programs.

use anyhow::Result;

use crate::packages;

/// Checks privileges and programs; installs `iproute2` where that is possible.
///
/// # Errors
///
/// With what is missing and how to get it.
pub(crate) fn machine() -> Result<()> {
    ::lab::requirements::check_privileges()?;
    packages::require("ip", "iproute2")
}
