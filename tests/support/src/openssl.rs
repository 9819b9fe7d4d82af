//! Keys and certificates as Debian's openssl makes them: somebody else's files for our TLS to read.

use std::path::Path;
use std::process::Command;

/// A new key on the curve that everybody speaks, without a password.
const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// Runs openssl in `dir`; words are parted by single blanks.
///
/// # Panics
/// If it is not installed, or fails.
pub fn openssl(dir: &Path, args: &str) {
    let done = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .output()
        .expect("openssl is installed");
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// `server.crt` and `server.key` in `dir`: for `localhost`, signed by themselves, and no CA.
pub fn self_signed(dir: &Path) {
    let what =
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
    openssl(dir, &format!("req -x509 {KEY} -days 2 {what} -keyout server.key -out server.crt"));
}

/// `ca.pem` of a CA called `ca`; `server.pem` and `server.key` for the alternative name `name`; `client.pem` and `client.key`.
///
/// # Panics
/// If a file cannot be written, or openssl fails.
pub fn certificates(dir: &Path, ca: &str, name: &str) {
    openssl(dir, &format!("req -x509 {KEY} -days 2 -subj /CN={ca} -keyout ca.key -out ca.pem"));
    for (who, alt) in [("server", name), ("client", "DNS:client")] {
        std::fs::write(dir.join("ext"), format!("subjectAltName={alt}\n")).expect("a file");
        openssl(dir, &format!("req {KEY} -subj /CN={who} -keyout {who}.key -out {who}.csr"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {who}.pem"
            ),
        );
    }
}
