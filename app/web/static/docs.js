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
  // A link within a button: the button opens the same operation and puts its address into the bar.
  for (const link of document.querySelectorAll(".opblock-summary-control a[href]")) link.removeAttribute("href");
}
new MutationObserver(mend).observe(document.getElementById("swagger-ui"), { childList: true, subtree: true });
