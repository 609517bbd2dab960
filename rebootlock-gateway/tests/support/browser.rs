//! A headless Chromium, driven over WebDriver: plain HTTP and JSON, on loopback alone.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::request;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a field of the browser's answers is called that names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A driver and its browser, which end when this is dropped.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = driver
            .unwrap_or_else(|error| panic!("chromedriver: {error}; scripts/setup installs it"));
        let port = port(&mut driver);
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _profile: profile,
        };
        let folder = browser._profile.path().display();
        let args = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--hide-scrollbars".to_owned(),
            // Whatever it would like to ask of others, it finds nobody.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
            "--window-size=1280,900".to_owned(),
            format!("--user-data-dir={folder}"),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.ask("POST", "/session", &wanted);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    /// One command of the protocol; its `value`.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_ask(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The same; or what the driver, or the system, has against it.
    fn try_ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (ok, body) = self.talk(method, path, body).map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let value = answer["value"].take();
        if ok { Ok(value) } else { Err(value.to_string()) }
    }

    /// Whether it went well, and what was answered.
    fn talk(&self, method: &str, path: &str, body: &Value) -> std::io::Result<(bool, Vec<u8>)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let text = request(method, path, "", &body);
        stream.write_all(text.as_bytes())?;
        let mut stream = BufReader::new(stream);
        let (mut ok, mut length) = (false, 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap_or(0);
                }
                _ if line.starts_with("HTTP/") => ok = line.contains(" 200 "),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        Ok((ok, body))
    }

    fn command(&self, method: &str, path: &str, body: Value) -> Value {
        self.ask(method, &format!("/session/{}{path}", self.session), &body)
    }

    /// A command of the developer tools.
    pub fn devtools(&self, command: &str, params: Value) -> Value {
        self.command("POST", "/goog/cdp/execute", json!({"cmd": command, "params": params}))
    }

    pub fn open(&self, url: &str) {
        self.command("POST", "/url", json!({"url": url}));
    }

    pub fn url(&self) -> String {
        self.command("GET", "/url", Value::Null).as_str().unwrap().to_owned()
    }

    pub fn reload(&self) {
        self.command("POST", "/refresh", json!({}));
    }

    /// What a script returns.
    pub fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", json!({"script": script, "args": []}))
    }

    /// What the browser shows as text.
    pub fn text(&self) -> String {
        let value = self.run("return document.body.innerText");
        value.as_str().unwrap_or_default().to_owned()
    }

    /// The page as it is now, without its marks: what a browser shows that runs no scripts, of which
    /// none can be asked then.
    pub fn source_text(&self) -> String {
        let source = self.command("GET", "/source", Value::Null);
        let parts = source
            .as_str()
            .unwrap()
            .split('<')
            .map(|part| part.split_once('>').map_or(part, |(_, text)| text));
        parts.collect()
    }

    /// What the browser complains about.
    pub fn log(&self) -> Value {
        self.command("POST", "/se/log", json!({"type": "browser"}))
    }

    /// Waits until a script returns true.
    #[track_caller]
    pub fn until(&self, script: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.run(script) != Value::Bool(true) {
            assert!(Instant::now() < deadline, "not so: {script}\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the page shows this text.
    #[track_caller]
    pub fn until_shown(&self, text: &str) {
        self.until(&format!("return document.body.innerText.includes({})", json!(text)));
    }

    fn find(&self, css: &str) -> String {
        let found =
            self.command("POST", "/element", json!({"using": "css selector", "value": css}));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    pub fn click(&self, css: &str) {
        let element = self.find(css);
        self.command("POST", &format!("/element/{element}/click"), json!({}));
    }

    pub fn fill(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.command("POST", &format!("/element/{element}/value"), json!({"text": text}));
    }

    /// A screen of this size; one of a phone has a finger's touch and its own way with widths.
    pub fn size(&self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}),
        );
    }

    /// What people set who prefer it so.
    pub fn prefer(&self, feature: &str, value: &str) {
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": feature, "value": value}]}),
        );
    }

    /// A PNG of what is seen.
    pub fn picture(&self) -> Vec<u8> {
        use base64::Engine as _;
        let shot = self.devtools("Page.captureScreenshot", json!({"format": "png"}));
        base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }
}

/// The driver says on which port it listens.
fn port(driver: &mut Child) -> u16 {
    let stdout = BufReader::new(driver.stdout.take().unwrap());
    let mut lines = stdout.lines();
    let port = lines.find_map(|line| {
        let line = line.ok()?;
        line.split("started successfully on port ").nth(1)?.trim_end_matches('.').parse().ok()
    });
    // It may say more, and must not find that nobody reads it.
    std::thread::spawn(move || lines.for_each(drop));
    port.expect("the port of chromedriver")
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // The browser ends with its session; the driver does not always take it along.
            let _ = self.try_ask("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
