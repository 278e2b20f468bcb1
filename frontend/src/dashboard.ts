export async function startDashboard(): Promise<void> {}
