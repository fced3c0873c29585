// Swagger UI with nothing fetched from elsewhere: no validator badge, no fonts.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
});

// What Swagger UI leaves out for those who hear the page or use its keyboard.
function mend() {
  document.querySelector("#servers")?.setAttribute("aria-label", "Server");
  for (const title of document.querySelectorAll("h3.opblock-tag:not([aria-level]), .models h4:not([aria-level])")) title.setAttribute("aria-level", "2");
  for (const [part, name] of [[".information-container", "About"], [".scheme-container, .schemes-server-container", "Server and key"]]) {
    const found = document.querySelector(part);
    if (found && !found.hasAttribute("role")) {
      found.setAttribute("role", "region");
      found.setAttribute("aria-label", name);
    }
  }
  for (const title of document.querySelectorAll("h4.opblock-title:not([role])")) {
    title.setAttribute("role", "heading");
    title.setAttribute("aria-level", "3");
  }
  const named = [["select.examples-select-element", "Example"], ["select", "Choice"], ["textarea", "Body"], ["input[type=file]", "File"]];
  for (const operation of document.querySelectorAll(".opblock")) {
    const path = operation.querySelector(".opblock-summary-path")?.dataset.path ?? "";
    const method = operation.querySelector(".opblock-summary-method")?.textContent ?? "";
    for (const [selector, name] of named) {
      for (const field of operation.querySelectorAll(`${selector}:not([aria-label])`)) {
        if (!field.labels?.length && !field.hasAttribute("aria-labelledby")) field.setAttribute("aria-label", `${name}: ${method} ${path}`);
      }
    }
    for (const table of operation.querySelectorAll("table[role=region]:not([aria-label])")) table.setAttribute("aria-label", `Responses: ${method} ${path}`);
  }
  for (const code of document.querySelectorAll("pre.microlight:not([tabindex])")) code.tabIndex = 0;  // it scrolls
  // A link within a button: the button opens the same operation and puts its address into the bar.
  for (const link of document.querySelectorAll(".opblock-summary-control a[href]")) link.removeAttribute("href");
}
new MutationObserver(mend).observe(document.getElementById("swagger-ui"), { childList: true, subtree: true });
