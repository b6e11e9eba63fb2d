/* The request that a page answers: in its address, as JSON for programs, and as commands. */
"use strict";
{
  const atlas = (window.lvlmAtlas ??= {});
  const NAMES = ["model", "device", "workload", "goal"];

  /** The request of the address, completed by what the page is about. Names that the atlas lacks are left out. */
  const fromAddress = (index, page) => {
    const asked = new URLSearchParams(location.search);
    const known = {
      model: index.models, device: index.devices, workload: index.workloads, goal: index.goals,
    };
    const request = {};
    for (const name of NAMES) {
      const ids = known[name].map((each) => each.id);
      request[name] = [asked.get(name), page[name], index.reference[name], ids[0]].find((id) => ids.includes(id));
    }
    return request;
  };

  /** Put a request, or anything else that a page is in, into its address, which then leads back to it. */
  const toAddress = (values) => {
    const asked = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(values)) {
      if (value === "" || value === null || value === undefined) asked.delete(name);
      else asked.set(name, value);
    }
    const search = `${asked}` === "" ? location.pathname : `?${asked}`;
    history.replaceState(history.state, "", `${search}${location.hash}`);
  };

  /** What a program has to be told to answer the same. */
  const asJson = (index, request, devices) => ({
    model: request.model, hardware: request.device, workload: request.workload, goal: request.goal,
    risk: index.risk, max_techniques: index.most, efficiency: index.efficiency, tensor_parallel: devices,
  });

  const subject = (index, request, devices) => {
    const parts = ["--model", request.model, "--hardware", request.device, "--workload", request.workload,
      "--efficiency", index.efficiency];
    if (devices > 1) parts.push("--tp", devices);
    return parts.join(" ");
  };
  const plan = (index, request, devices) =>
    `lvlm-atlas plan ${subject(index, request, devices)} --goal ${request.goal} --risk ${index.risk}`;
  const estimate = (index, request, devices, stack) =>
    `lvlm-atlas estimate ${subject(index, request, devices)}${stack.length ? ` --stack ${stack.join("+")}` : ""}`;

  atlas.request = { fromAddress, toAddress, asJson, plan, estimate };
}
