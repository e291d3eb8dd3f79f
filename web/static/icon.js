// Small drawings.
import { html } from "./htm-preact.js";

const shapes = {
  ask: "M2.5 3.5h11v7h-6l-3 2.5v-2.5h-2z",
  memory: "M2 4h7M11.5 4h2.5M2 8h3M7.5 8h6.5M2 12h8.5M13 12h1",
  watches: "M8 2.5a3.8 3.8 0 0 1 3.8 3.8c0 3.2 1.2 4.2 1.2 4.2H3s1.2-1 1.2-4.2A3.8 3.8 0 0 1 8 2.5zM6.6 13.2a1.5 1.5 0 0 0 2.8 0",
  auto: "M2.5 3.5h11v7.5h-11zM6 13.5h4",
  light: "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6zM8 1.2v1.3M8 13.5v1.3M1.2 8h1.3M13.5 8h1.3M3.2 3.2l.9.9M11.9 11.9l.9.9M12.8 3.2l-.9.9M4.1 11.9l-.9.9",
  dark: "M13 9.6A5.6 5.6 0 0 1 6.4 3 5.6 5.6 0 1 0 13 9.6z",
};

// Icon is a small line drawing beside a word; it says nothing by itself.
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><path d=${shapes[name]} /></svg>`;

// Meter shows a part of one. With a label it says itself to screen readers; else what stands beside it does.
export const Meter = ({ value, label }) => html`<span class="meter" role=${label ? "meter" : undefined} aria-label=${label}
  aria-valuemin=${label && 0} aria-valuemax=${label && 1} aria-valuenow=${label && value.toFixed(2)}><span style=${{ width: `${100 * value}%` }}></span></span>`;
