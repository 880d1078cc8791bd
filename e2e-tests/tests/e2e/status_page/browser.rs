//! Debian's Chromium without a window, driven by its own `WebDriver` server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use testkit::blocking;

const DRIVER: &str = "/usr/bin/chromedriver";
/// The code of the key in `WebDriver`, "Keyboard actions".
const TAB: &str = "\u{e004}";

pub struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    /// Starts one; `None` if it is not installed.
    pub fn start() -> Option<Self> {
        if !std::fs::exists(DRIVER).unwrap() {
            // Past the test runner, which would swallow it.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: chromium-driver is not installed, no browser opens the status page"
            );
            return None;
        }
        testkit::tls::install_crypto_provider();
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let mut browser = Self {
            driver,
            session: format!("http://127.0.0.1:{}/session", port.unwrap()),
        };
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ];
        let capabilities = json!({ "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }});
        let session = browser.post("", &json!({ "capabilities": capabilities }));
        browser.session = format!(
            "{}/{}",
            browser.session,
            session["sessionId"].as_str().unwrap()
        );
        Some(browser)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.send(reqwest::Method::POST, path, Some(body))
    }

    fn send(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Value {
        let url = format!("{}{path}", self.session);
        let text = blocking::run(async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let mut request = client.request(method, url);
            if let Some(body) = body {
                request = request.body(body.to_string());
            }
            request.send().await.unwrap().text().await.unwrap()
        });
        let response: Value = serde_json::from_str(&text).unwrap();
        assert!(response["value"]["error"].is_null(), "{path}: {response}");
        response["value"].clone()
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// The value of an expression in the page.
    pub fn value(&self, expression: &str) -> Value {
        let script = format!("return {expression};");
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    pub fn text(&self, selector: &str) -> String {
        let text = self.value(&format!(
            "document.querySelector({selector:?})?.innerText ?? ''"
        ));
        text.as_str().unwrap().to_owned()
    }

    pub fn texts(&self, selector: &str) -> Vec<String> {
        let texts =
            format!("[...document.querySelectorAll({selector:?})].map(found => found.innerText)");
        serde_json::from_value(self.value(&texts)).unwrap()
    }

    pub fn press_tab(&self) {
        let keys = json!([{ "type": "keyDown", "value": TAB }, { "type": "keyUp", "value": TAB }]);
        self.post(
            "/actions",
            &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": keys }] }),
        );
    }

    pub fn look(&self, width: u32, height: u32, scheme: &str) {
        self.command(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
        let scheme = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command("Emulation.setEmulatedMedia", &json!({ "features": scheme }));
    }

    pub fn screenshot(&self) -> Vec<u8> {
        let png = self.command("Page.captureScreenshot", &json!({ "format": "png" }));
        BASE64_STANDARD
            .decode(png["data"].as_str().unwrap())
            .unwrap()
    }

    /// The errors and warnings of the console.
    pub fn console(&self) -> Vec<String> {
        let entries = self.log("browser");
        entries.iter().map(ToString::to_string).collect()
    }

    /// The URLs that were requested.
    pub fn requested(&self) -> Vec<String> {
        let urls = self.log("performance").into_iter().filter_map(|entry| {
            let event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let event = &event["message"];
            let is_request = event["method"] == "Network.requestWillBeSent";
            let url = event["params"]["request"]["url"].as_str()?;
            is_request.then(|| url.to_owned())
        });
        urls.collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.post("/se/log", &json!({ "type": kind }));
        log.as_array().unwrap().clone()
    }

    fn command(&self, name: &str, parameters: &Value) -> Value {
        self.post(
            "/goog/cdp/execute",
            &json!({ "cmd": name, "params": parameters }),
        )
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends Chromium when the session ends.
        if !std::thread::panicking() {
            self.send(reqwest::Method::DELETE, "", None);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
