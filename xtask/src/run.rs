//! Runs other programs: prints what runs, and fails with the command line and its exit status.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The cargo that runs this program, started at the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Prints the command line and runs it; its output goes where ours goes.
///
/// # Errors
///
/// When the program cannot be started or does not exit with zero.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs the command silently and returns what it wrote to standard output, trimmed.
///
/// # Errors
///
/// When the program cannot be started, does not exit with zero (the message then carries its
/// standard error) or does not write UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}: {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` did not write UTF-8", line(command)))?;
    Ok(text.trim().to_owned())
}

/// Like [`run()`], and hands every line of standard output to `each` after printing it.
///
/// # Errors
///
/// As [`run()`]; every line was handed over all the same.
pub(crate) fn run_lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<()> {
    announce(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| cannot_start(command))?;
    if let Some(stdout) = child.stdout.take() {
        for bytes in BufReader::new(stdout).split(b'\n') {
            let bytes = bytes.with_context(|| format!("cannot read from `{}`", line(command)))?;
            let text = String::from_utf8_lossy(&bytes);
            println!("{text}");
            each(&text);
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Like [`run()`], and the failure carries the last line that the program wrote to standard error:
/// whoever sees the end of a long log only still learns why.
///
/// # Errors
///
/// As [`run()`].
pub(crate) fn run_telling_why(command: &mut Command) -> Result<()> {
    announce(command);
    let mut child =
        command.stderr(Stdio::piped()).spawn().with_context(|| cannot_start(command))?;
    let mut last = String::new();
    if let Some(stderr) = child.stderr.take() {
        for bytes in BufReader::new(stderr).split(b'\n') {
            let bytes = bytes.with_context(|| format!("cannot read from `{}`", line(command)))?;
            let text = String::from_utf8_lossy(&bytes);
            eprintln!("{text}");
            if !text.trim().is_empty() {
                last = text.trim().to_owned();
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}: {last}", line(command));
    }
    Ok(())
}

/// The first executable file of that name in the directories of `PATH`.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    which_in(name, &env::var_os("PATH")?)
}

fn which_in(name: &str, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(name)).find(|file| is_executable(file))
}

/// Whether the file exists and somebody may run it.
pub(crate) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The present instant, for telling how long a step took.
#[expect(clippy::disallowed_methods, reason = "a build tool measures its own steps")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

fn announce(command: &Command) {
    eprintln!("$ {}", line(command));
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", line(command))
}

/// The command as a shell would take it: variables set, program, arguments.
///
/// The compiler flags of the kernel build hold control characters and paths of this machine, so
/// values with such characters are named but not shown.
pub(crate) fn line(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let value = value.to_string_lossy();
            let shown =
                if value.chars().any(char::is_control) { "...".into() } else { quoted(&value) };
            words.push(format!("{}={shown}", name.to_string_lossy()));
        }
    }
    words.push(quoted(&command.get_program().to_string_lossy()));
    words.extend(command.get_args().map(|argument| quoted(&argument.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_./=:,+@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_status() {
        let error = run(Command::new("sh").args(["-c", "exit 7"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'exit 7'"), "{error}");
        assert!(error.contains("exit status: 7"), "{error}");
    }

    #[test]
    fn a_failure_tells_the_last_thing_that_was_said() {
        let script = "echo first >&2; echo 'error: no room' >&2; echo >&2; exit 1";
        let error = run_telling_why(Command::new("sh").args(["-c", script])).unwrap_err();
        assert!(error.to_string().ends_with("exit status: 1: error: no room"), "{error}");
        run_telling_why(Command::new("sh").args(["-c", "echo sorry >&2"])).unwrap();
    }

    #[test]
    fn a_failure_of_a_silent_command_carries_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo sorry >&2; exit 1"])).unwrap_err();
        assert!(error.to_string().contains("sorry"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot start `no-such-program`"), "{error:#}");
    }

    #[test]
    fn lines_are_handed_over_even_when_the_command_fails() {
        let mut lines = Vec::new();
        let result = run_lines(Command::new("sh").args(["-c", "echo a; echo b; exit 1"]), |line| {
            lines.push(line.to_owned());
        });
        assert!(result.is_err());
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn words_are_quoted_as_a_shell_needs() {
        assert_eq!(quoted("--exclude"), "--exclude");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        let mut command = Command::new("cargo");
        command.arg("build").env("FLAGS", "a\u{1f}b");
        assert_eq!(line(&command), "FLAGS=... cargo build");
    }

    #[test]
    fn a_file_that_nobody_may_run_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tool");
        std::fs::write(&file, "").unwrap();
        assert_eq!(which_in("tool", directory.path().as_os_str()), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(which_in("tool", directory.path().as_os_str()), Some(file));
    }
}
